"""Scores of denoised expression, by hand, against scikit-learn and where the answer is known."""

import numpy as np
import pytest
from sklearn.metrics import mean_poisson_deviance, roc_auc_score

from scfm.metrics.denoising import (
    explained_deviance,
    false_positive_share,
    gene_correlations,
    marker_leak,
    mean_correlation,
    poisson_deviance,
    zero_auc,
)


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(2.0, size=(80, 12)).astype(np.float64)


def test_deviance_is_that_of_scikit_learn(counts):
    expected = np.random.default_rng(1).gamma(2.0, size=counts.shape)
    oracle = mean_poisson_deviance(counts.ravel(), expected.ravel()) * counts.size
    assert poisson_deviance(counts, expected) == pytest.approx(oracle)


def test_explained_deviance_is_0_for_means_and_1_for_the_molecules_themselves(counts):
    means = counts.sum(axis=0) / counts.sum()
    assert explained_deviance(counts, np.tile(means, (80, 1)), means) == pytest.approx(0)
    assert explained_deviance(counts, 7 * counts, means) == pytest.approx(1)
    assert explained_deviance(counts, counts[::-1], means) < 0


def test_correlations_are_of_shares_and_0_for_a_gene_that_does_not_vary(counts):
    expected = np.random.default_rng(1).gamma(2.0, size=counts.shape)
    found = gene_correlations(counts, expected)
    shares = [values / values.sum(axis=1, keepdims=True) for values in (counts, expected)]
    np.testing.assert_allclose(found[3], np.corrcoef(shares[0][:, 3], shares[1][:, 3])[0, 1])
    np.testing.assert_array_equal(gene_correlations(counts, np.full(counts.shape, 0.1)), 0)


def test_auc_of_zeros_is_that_of_scikit_learn(counts):
    read = np.random.default_rng(2).poisson(0.7, size=counts.shape)
    expected = np.random.default_rng(1).gamma(2.0, size=counts.shape)
    score = expected / expected.sum(axis=1, keepdims=True) * counts.sum(axis=1, keepdims=True)
    assert zero_auc(counts, expected, read) == pytest.approx(roc_auc_score((counts > 0)[read == 0], score[read == 0]))
    assert np.isnan(zero_auc(counts, expected, np.ones_like(counts)))


def test_random_halves_of_like_cells_differ_in_5_percent_and_true_differences_are_seen():
    rng = np.random.default_rng(0)
    values, halves = rng.normal(size=(100, 800)), np.arange(100) < 50
    assert false_positive_share(values, halves) == pytest.approx(0.05, abs=0.025)
    assert false_positive_share(values + 3 * halves[:, None], halves) == 1
    assert false_positive_share(np.ones((100, 5)), halves) == 0


def test_mean_correlation_counts_constant_columns_as_0():
    rng = np.random.default_rng(0)
    one = rng.normal(size=200)
    assert mean_correlation(np.column_stack([one, -2 * one])) == pytest.approx(1)
    assert mean_correlation(np.column_stack([one, -2 * one, np.ones(200)])) == pytest.approx(1 / 3)
    assert mean_correlation(rng.normal(size=(2000, 30))) < 0.05
    rounded = np.ones((200, 5)) + 1e-6 * one[:, None]  # a common factor of float32
    assert mean_correlation(rounded) == 0
    assert (gene_correlations(np.random.default_rng(0).poisson(2.0, (200, 5)).astype(float), rounded) == 0).all()


def test_a_marker_leaks_fully_where_every_cell_gets_the_mean_of_its_own_type_of_marker():
    types = np.repeat([0, 1], 50)
    rate = np.where(types[:, None] == 0, [20.0, 0.0, 30.0], [0.0, 20.0, 30.0])
    raw = np.random.default_rng(0).poisson(rate).astype(np.float64)
    assert marker_leak(raw, rate, types) == pytest.approx(0, abs=0.01)
    swapped = rate[:, [1, 0, 2]]
    assert marker_leak(raw, swapped, types) == pytest.approx(1, abs=0.05)
    assert marker_leak(raw, np.tile(rate.mean(axis=0), (100, 1)), types) == pytest.approx(0.5, abs=0.05)
    assert np.isnan(marker_leak(raw, rate, np.zeros(100, dtype=int)))
