"""Associations of genes against other implementations and against numbers made by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mutual_info_score

from scfm.metrics.network.association import (
    ASSOCIATIONS,
    cosine,
    forest_importance,
    hub,
    mutual_information,
    partial_correlation,
    pearson,
    remove_confounders,
    shrunk_correlation,
    spearman,
)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    drawn = np.log1p(rng.poisson(1.0, (200, 6))).astype(np.float64)
    drawn[:, 1] += drawn[:, 0]
    drawn[:, 5] = 0
    return drawn


def test_correlations_are_scipys(values):
    assert pearson(values)[0, 1] == pytest.approx(abs(pearsonr(values[:, 0], values[:, 1]).statistic))
    assert spearman(values)[2, 3] == pytest.approx(abs(spearmanr(values[:, 2], values[:, 3]).statistic))
    assert pearson(values)[5].tolist() == [0] * 6  # constant: no correlation, no NaN


def test_every_association_is_symmetric_and_finite(values):
    for name, associate in ASSOCIATIONS.items():
        scores = associate(values)
        assert np.isfinite(scores).all() and np.allclose(scores, scores.T), name


def test_mutual_information_is_scikit_learns(values):
    binary = (values > 0.5).astype(float)
    ours = mutual_information(binary, n_bins=2)
    assert ours[0, 1] == pytest.approx(mutual_info_score(binary[:, 0], binary[:, 1]))
    assert mutual_information(values)[0, 1] > 5 * mutual_information(values)[2, 3]


def test_partial_correlation_leaves_out_what_a_third_gene_explains():
    rng = np.random.default_rng(1)
    cause = rng.normal(size=4000)
    both = np.column_stack([cause, cause + rng.normal(size=4000), cause + rng.normal(size=4000)])
    assert pearson(both)[1, 2] > 0.4 and partial_correlation(both)[1, 2] < 0.05


def test_shrinkage_by_its_definition():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(12, 3))
    z = (x - x.mean(0)) / x.std(0, ddof=1)
    w = z[:, :, None] * z[:, None, :]
    variance = 12 / 11**3 * ((w - w.mean(0)) ** 2).sum(0)
    r = 12 / 11 * w.mean(0)
    off = ~np.eye(3, dtype=bool)
    strength = min(1, variance[off].sum() / (r[off] ** 2).sum())
    assert np.allclose(shrunk_correlation(z)[off], (1 - strength) * r[off])


def test_fewer_cells_than_genes_can_be_inverted():
    rng = np.random.default_rng(3)
    assert np.isfinite(partial_correlation(rng.normal(size=(8, 40)))).all()


def test_hub_is_a_product_and_cosine_an_angle(values):
    assert hub(values)[0, 2] == pytest.approx(values[:, 0].mean() * values[:, 2].mean())
    angles = cosine(np.array([[1.0, 0], [1, 1], [0, 0]]))
    assert angles[0, 1] == pytest.approx(2**-0.5) and np.isnan(angles[2]).all()


def test_a_forest_finds_the_regulator_of_a_target_also_where_it_is_not_linear():
    rng = np.random.default_rng(5)
    drawn = rng.normal(size=(300, 6))
    drawn[:, 4] = drawn[:, 1] ** 2 + 0.2 * rng.normal(size=300)
    drawn[:, 5] = 1.0
    scores = forest_importance(drawn, np.array([0, 1, 2]), n_trees=20)
    assert scores[:3, 4].argmax() == 1 and scores[1, 4] > 0.7 and pearson(drawn)[1, 4] < 0.3
    assert np.isnan(scores[3:]).all() and np.isnan(np.diag(scores)).all()
    assert scores[[0, 1, 2], 5].tolist() == [0, 0, 0]
    assert np.nansum(scores[:, 4]) == pytest.approx(1)


def test_confounders_leave_nothing_of_a_score_that_is_theirs_alone():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(30, 2))
    own = rng.normal(size=(30, 30))
    confounded = features[:, :1] * 3 + features[:, 1][None] * 3 + own
    left = remove_confounders(confounded, features)
    off = ~np.eye(30, dtype=bool)
    assert np.isnan(np.diag(left)).all()
    assert abs(np.corrcoef(left[off], np.repeat(features[:, 0], 30).reshape(30, 30)[off])[0, 1]) < 1e-6
    assert np.corrcoef(left[off], own[off])[0, 1] > 0.9
