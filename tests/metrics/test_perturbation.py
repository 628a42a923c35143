"""Formulas of perturbations against numbers made by hand, and their nulls."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from scfm.metrics.perturbation import (
    Centroids,
    auroc,
    average_precision,
    benjamini_hochberg,
    bootstrap_interval,
    cosine,
    impact_component,
    matched_z,
    permutation_p,
    permute_labels,
    projection,
    residuals,
    state_shifts,
    unit_means,
    unit_test,
)


def test_cosines_by_hand():
    assert cosine(np.array([[3.0, 4], [0, 0]]), np.array([4.0, 3])).tolist() == [pytest.approx(24 / 25), 0]


def test_a_cell_is_left_out_of_its_own_centroid():
    h = np.array([[1.0, 0], [3, 0], [0, 2], [0, 4], [9, 9]])
    both = Centroids.add_up(h, np.array([0, 0, 1, 1, -1]), 2)
    assert both.without(h[0], 0).tolist() == [[3, 0], [0, 3]]
    assert both.without(h[4], -1).tolist() == [[2, 0], [0, 3]]
    assert both.middle(h[0], 0).tolist() == [1, 2]
    assert both.middle(h[4], -1).tolist() == [1, 1.5]


def test_shifts_by_hand_raw_and_centered():
    h, new = np.array([[1.0, 0]]), np.array([[0.0, 1], [1, 0], [1, 1]])
    states = np.array([[2.0, 0], [0, 5]])
    raw = state_shifts(h, new, states, None)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(raw, [[-1, 1], [0, 0], [root - 1, root]])
    # less m = (.5, .5): h is (.5, -.5), the first new one (-.5, .5), states (1.5, -.5) and (-.5, 4.5)
    centered = state_shifts(h, new[:1], states, np.array([0.5, 0.5]))
    own = [1.0 / np.sqrt(0.5 * 2.5), -2.5 / np.sqrt(0.5 * 20.5)]
    np.testing.assert_allclose(centered, [[-2 * own[0], -2 * own[1]]])


def test_a_projection_is_the_way_in_units_of_the_gap():
    start, goal = np.array([0.0, 0]), np.array([4.0, 0])
    assert projection(np.array([[1.0, 1]]), np.array([[2.0, 7], [1, 0]]), start, goal).tolist() == [0.25, 0]


def frame(cell, rank, n, shift):
    return pd.DataFrame({"cell": cell, "rank": rank, "n": n, "shift": shift})


def test_residuals_are_less_the_others_of_the_same_cell_and_decile():
    cells = frame([0] * 5 + [1] * 2, [0, 1, 2, 3, 90, 0, 1], [100] * 5 + [10, 10], [1.0, 2, 3, 6, 50, 4, 8])
    # decile 0 of cell 0 has four; the gene at 90 is alone in its own, cell 1 has two deciles of one: the whole cell
    expected = [1 - 11 / 3, 2 - 10 / 3, 3 - 3, 6 - 2, 50 - 3, 4 - 8, 8 - 4]
    np.testing.assert_allclose(residuals(cells), expected)
    reference = np.array([False, True, True, True, True, True, True])
    np.testing.assert_allclose(residuals(cells, reference=reference)[0], 1 - 11 / 3)
    np.testing.assert_allclose(residuals(cells, reference=reference)[4], 50 - 11 / 3)


def test_what_all_perturbations_of_a_cell_share_is_removed():
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(20), 50)
    cells = frame(cell, np.tile(np.arange(50), 20), 50, rng.normal(size=1000))
    moved = cells.assign(shift=cells["shift"] + 100 * cell + 7 * (cells["rank"] // 5))
    np.testing.assert_allclose(residuals(moved), residuals(cells), atol=1e-9)


def test_donors_are_units():
    cells = pd.DataFrame({"gene": ["a"] * 4, "donor": ["x", "x", "x", "y"], "shift": [1.0, 2, 3, 10]})
    assert unit_means(cells, ["shift"], donors=True)["shift"].tolist() == [2, 10]
    assert unit_means(cells, ["shift"], donors=False)["shift"].tolist() == [1, 2, 3, 10]
    five, six = np.array([1.0, 2, 3, 2.5, 0.5]), np.array([1.0, 2, 3, 2.5, 0.5, 4])
    assert unit_test(five, donors=True) == stats.ttest_1samp(five, 0).pvalue
    assert unit_test(six, donors=True) == stats.wilcoxon(six).pvalue == 2 / 64
    assert unit_test(five, donors=False) == stats.wilcoxon(five).pvalue
    assert np.isnan(unit_test(np.array([3.0]), donors=True))


def test_z_counts_what_random_genes_have_too():
    rng = np.random.default_rng(1)
    effect = rng.normal(0, 2, 4000)
    z = matched_z(effect, np.full(4000, 1e-6), np.ones(4000, bool))
    assert abs(z.std() - 1) < 0.05, "cells alone would give z of two million"
    noise = matched_z(rng.normal(0, 3, 4000), np.full(4000, 3.0), np.ones(4000, bool))
    assert stats.kstest(2 * stats.norm.sf(np.abs(noise)), "uniform").pvalue > 0.01
    assert matched_z(np.array([0, 1, -1, 100.0]), np.zeros(4), np.array([1, 1, 1, 0], bool))[3] == pytest.approx(
        100 / 1.4826
    )


class TestLabels:
    def test_they_move_within_donors(self):
        is_goal, donors = np.array([1, 0, 0, 1, 1, 0], bool), np.array([0, 0, 0, 1, 1, 1])
        drawn = permute_labels(is_goal, donors, 200, seed=0)
        assert (drawn[:, :3].sum(axis=1) == 1).all()
        assert (drawn[:, 3:].sum(axis=1) == 2).all()
        assert len(np.unique(drawn, axis=0)) == 9

    def test_whole_donors_move_where_none_has_both_states(self):
        is_goal, donors = np.array([0, 0, 0, 1, 1, 1], bool), np.array([0, 0, 1, 2, 3, 3])
        drawn = permute_labels(is_goal, donors, 200, seed=0)
        assert len(np.unique(drawn, axis=0)) == 6
        assert (drawn[:, 0] == drawn[:, 1]).all()
        assert (drawn[:, 4] == drawn[:, 5]).all()

    def test_p_by_hand(self):
        p = permutation_p(np.array([2.0, -0.5]), np.array([[1.0, -3, 2], [0.1, 0.2, 0.3]]))
        assert p.tolist() == [3 / 4, 1 / 4]

    def test_shuffled_labels_have_uniform_p(self):
        """500 genes of random effects, states that say nothing."""
        rng = np.random.default_rng(3)
        h, effects = rng.normal(size=(80, 200)), rng.normal(size=(500, 200))
        state = (np.arange(80) % 2).astype(bool)
        ways = [h[label].mean(axis=0) - h[~label].mean(axis=0) for label in permute_labels(state, None, 199, seed=0)]
        own = h[state].mean(axis=0) - h[~state].mean(axis=0)
        p = permutation_p(effects @ own, effects @ np.stack(ways, axis=1))
        assert stats.kstest(p, "uniform").pvalue > 0.01


def test_false_discovery_rates_by_hand():
    found = benjamini_hochberg(np.array([0.01, np.nan, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(found, [0.04, np.nan, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])


def test_auroc_is_scikits_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 20, 200).astype(float), rng.random(200) < 0.3
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))
    low, high = bootstrap_interval(score, positive, draws=300)
    assert low < auroc(score, positive) < high
    assert np.isnan(auroc(score, np.zeros(200, bool)))
    assert auroc(np.array([np.nan, 1.0]), np.array([False, True])) == 1


def test_average_precision_is_scikits_ties_and_missing_scores_included():
    rng = np.random.default_rng(0)
    for levels in (3, 20, 10**6):
        score, positive = rng.integers(0, levels, 200).astype(float), rng.random(200) < 0.3
        assert average_precision(score, positive) == pytest.approx(average_precision_score(positive, score))
    assert average_precision(np.array([np.nan, 1.0, 0.0]), np.array([True, False, False])) == pytest.approx(1 / 3)
    assert np.isnan(average_precision(score, np.zeros(200, bool)))


def test_the_impact_component_does_not_depend_on_the_order_of_the_fit():
    """The published code assumes component 0, which another seed makes the other one."""
    rng = np.random.default_rng(0)
    means = np.r_[rng.normal(0.9, 0.01, 40), rng.normal(0.99, 0.01, 400)]
    found = [impact_component(means, "low", seed) for seed in range(10)]
    assert all((one == found[0]).all() for one in found)
    assert found[0][:40].mean() > 0.9
    assert found[0][40:].mean() < 0.1
    assert (impact_component(means, "high") == ~found[0]).all()
