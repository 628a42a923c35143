"""Conformal sets hold what they promise, for good classifiers and bad ones."""

import numpy as np
import pytest

from scfm.head.annotation.conformal import fit_limit, name_sets
from scfm.metrics.classification import softmax


def made(n, seed, skill):
    rng = np.random.default_rng(seed)
    truth = rng.integers(5, size=n)
    return softmax(skill * np.eye(5)[truth] + rng.normal(size=(n, 5)), 1.0), truth


@pytest.mark.parametrize("skill", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_new_cells_are_covered_as_stated(skill, coverage):
    held = []
    for seed in range(60):
        limit = fit_limit(*made(100, seed, skill), coverage)
        probabilities, truth = made(200, 1000 + seed, skill)
        sets = name_sets(probabilities, "abcde", limit)
        held.append(np.mean(["abcde"[code] in own.split("|") for code, own in zip(truth, sets, strict=True)]))
    assert np.mean(held) >= coverage - 0.01
    if skill < 8:  # not by naming everything; a classifier without errors covers more than it has to
        assert np.mean(held) < coverage + 0.04


def test_a_better_classifier_has_smaller_sets():
    sizes = []
    for skill in (0.0, 2.0, 8.0):
        limit = fit_limit(*made(500, 0, skill), 0.9)
        sets = name_sets(made(500, 1, skill)[0], "abcde", limit)
        sizes.append(np.mean([len(own.split("|")) for own in sets]))
    assert sizes[0] > sizes[1] > sizes[2] == pytest.approx(1, abs=0.01)


def test_the_limit_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert fit_limit(probabilities, np.zeros(4, dtype=int), 0.8) == pytest.approx(0.6)  # the 4th of 4
    assert fit_limit(probabilities, np.zeros(4, dtype=int), 0.4) == pytest.approx(0.8)  # the 2nd
    assert fit_limit(probabilities, np.zeros(4, dtype=int), 0.9) == 0.0  # would be the 5th of 4


def test_names_go_by_probability_and_the_likeliest_is_always_there():
    probabilities = np.array([[0.1, 0.6, 0.3], [0.2, 0.4, 0.4], [np.nan] * 3])
    assert name_sets(probabilities, ["a", "b", "c"], 0.25).tolist() == ["b|c", "b|c", ""]
    assert name_sets(probabilities, ["a", "b", "c"], 0.99).tolist() == ["b", "b", ""]
