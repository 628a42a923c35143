"""Familiarity: sure strangers are told from known cells; ranks are those of calibration cells."""

import numpy as np
import pytest
import torch

from scfm.head.annotation.familiarity import MIN_ALL, Familiarity
from scfm.metrics.classification import softmax


def made(n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    return 4 * np.eye(3)[truth] + rng.normal(size=(n, 3)) * 0.7, truth


def fitted():
    familiar = Familiarity(3)
    return familiar, familiar.fit(*made(), 1.0)


def test_a_sure_stranger_is_less_familiar_than_known_cells():
    familiar, _ = fitted()
    known, stranger = made(200, 1)[0], np.array([[12.0, 6.0, -9.0]])
    assert softmax(stranger).max() > 0.99
    assert familiar.rate(stranger, 1.0)[0] < 0.6
    assert np.median(familiar.rate(known, 1.0)) > familiar.rate(np.array([[1.0, 1.0, 1.0]]), 1.0)[0]
    far = familiar.rate(np.array([[40.0, -20.0, -20.0]]), 1.0)[0]
    assert far == pytest.approx(0.5, abs=0.01)  # the surest call, the least close


def test_new_cells_of_known_classes_are_ranked_evenly():
    familiar, own = fitted()
    new = familiar.rate(made(2000, 2)[0], 1.0)
    assert new.mean() == pytest.approx(0.5, abs=0.05)
    assert np.quantile(new, 0.05) == pytest.approx(np.quantile(own, 0.05), abs=0.08)


def test_a_constant_added_to_all_scores_changes_nothing():
    familiar, _ = fitted()
    logits = made(50, 3)[0]
    np.testing.assert_allclose(familiar.rate(logits + 7, 1.0), familiar.rate(logits, 1.0), atol=0.011)


def test_few_calibration_cells_leave_the_probability():
    familiar = Familiarity(3)
    logits, truth = made(MIN_ALL - 1)
    np.testing.assert_array_equal(familiar.fit(logits, truth, 2.0), softmax(logits, 2.0).max(1))
    np.testing.assert_array_equal(familiar.rate(logits, 2.0), softmax(logits, 2.0).max(1))


def test_a_class_without_calibration_cells_is_ranked_by_probability_alone():
    logits, truth = made()
    familiar = Familiarity(3)
    familiar.fit(logits[truth != 2], truth[truth != 2], 1.0)
    assert familiar.rate(np.array([[0.0, 0.0, 9.0]]), 1.0)[0] > 0.9


def test_it_is_saved():
    familiar, _ = fitted()
    again = Familiarity(3)
    again.load_state_dict(familiar.state_dict())
    logits = made(20, 4)[0]
    np.testing.assert_array_equal(again.rate(logits, 1.0), familiar.rate(logits, 1.0))
    assert torch.isfinite(again.near).all()
