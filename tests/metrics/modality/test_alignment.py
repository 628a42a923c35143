"""Scores of cells of two modalities in one space, by hand."""

import numpy as np

from scfm.metrics.modality.alignment import foscttm, recall, transfer_accuracy


def circle(degrees):
    angle = np.deg2rad(np.asarray(degrees, dtype=float))
    return np.column_stack([np.cos(angle), np.sin(angle)])


def test_by_hand():
    one = circle([0, 40, 80])
    assert foscttm(one, one * 7) == 0, "lengths do not matter"
    assert recall(one, one, 1) == 1
    other = circle(
        [30, 50, 80]
    )  # of 0: 30 is the closest; of 40: 30 and 50 tie; of 80: itself. 30 is closer to 40 than to 0
    assert foscttm(one, other) == np.mean([(0 + 0.5 + 0) / 6, (1 + 0 + 0) / 6])
    assert recall(one, other[::-1], 1) <= recall(one, other[::-1], 2) <= recall(one, other[::-1], 3) == 1


def test_chance_is_one_half():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(300, 8)), rng.normal(size=(300, 8))
    assert abs(foscttm(one, other) - 0.5) < 0.03
    assert abs(recall(one, other, 30) - 0.1) < 0.05
    constant = np.ones((300, 8))
    assert abs(foscttm(one, constant) - 0.5) < 0.02, "a constant is no match"


def test_labels_are_carried_over():
    known, asked = circle([0, 1, 2, 90, 91, 92]), circle([3, 89, 88, 45])
    codes, truth = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 1, 0, -1])
    assert transfer_accuracy(known, codes, asked, truth, n_neighbors=1) == 2 / 3
    assert np.isnan(transfer_accuracy(known, np.zeros(6, int), asked, truth))
