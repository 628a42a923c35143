"""Scores of predicted proteins, by hand and against scipy."""

import numpy as np
from scipy.stats import pearsonr, spearmanr

from scfm.metrics.modality.protein import center_groups, protein_scores


def test_scores_of_the_cells_that_have_a_protein():
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    predicted[:, 0] += truth[:, 0]
    truth[:20, 0] = np.nan
    truth[2:, 2] = np.nan
    groups = np.arange(60) % 3
    table = protein_scores(truth, predicted, predicted - 1, predicted + 1, sd=np.array([2.0, 1.0, 1.0]), groups=groups)
    known = truth[20:, 0], predicted[20:, 0]
    np.testing.assert_allclose(table["r"][0], pearsonr(*known).statistic)
    np.testing.assert_allclose(table["spearman"][0], spearmanr(*known).statistic)
    np.testing.assert_allclose(table["rmse"][0], np.sqrt(((known[0] - known[1]) ** 2).mean()) / 2)
    np.testing.assert_allclose(table["coverage"][0], (np.abs(known[0] - known[1]) <= 1).mean())
    assert all(np.isnan(values[2]) for values in table.values())


def test_types_alone_make_a_good_r_and_no_r_within_types():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 4, 4000)
    truth = (groups * 3.0 + rng.normal(size=4000))[:, None]
    predicted = (groups * 3.0 + 0.5 * rng.normal(size=4000))[:, None]
    table = protein_scores(truth, predicted, sd=np.ones(1), groups=groups)
    assert table["r"][0] > 0.9
    assert abs(table["within_r"][0]) < 0.05
    assert "coverage" not in table
    unknown = protein_scores(truth, predicted, sd=np.ones(1), groups=np.full(4000, -1))
    assert np.isnan(unknown["within_r"][0])


def test_centers():
    np.testing.assert_allclose(center_groups(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 2])), [-1.0, 1.0, 0.0])
