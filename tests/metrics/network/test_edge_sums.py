"""Means of edges over cells, and their permutation null."""

import numpy as np
import pytest
from scipy.stats import kstest

from scfm.metrics.network.edge_sums import EdgeSums, compare_edges, permute_labels


def test_means_of_two_cells_by_hand():
    sums = EdgeSums(3, 1)
    sums.add(np.array([[0, 1, -1]]), np.array([[0, 1, -1]]), np.array([[9.0, 2, 7], [4, 9, 7], [7, 7, 7]]))
    sums.add(np.array([[1, 0]]), np.array([[2, 1]]), np.array([[5.0, 9], [np.nan, 6]]))
    mean = sums.means()[0]
    assert mean[0, 1] == (2 + 6) / 2 and mean[1, 0] == 4 and mean[1, 2] == 5
    assert np.isnan(mean[0, 2]) and np.isnan(np.diag(mean)).all()  # never scored; a gene with itself
    assert np.isnan(sums.means(min_cells=2)[0, 1, 0])


def test_permuted_labels_keep_to_their_stratum():
    rng = np.random.default_rng(0)
    labels, strata = np.array([0, 1, 2, -1, 3, 4]), np.array([0, 0, 0, 0, 1, 1])
    sets = permute_labels(labels, strata, 50, rng)
    assert (sets[0] == labels).all() and (sets[:, 3] == -1).all()
    assert (np.sort(sets[:, :3], axis=1) == [0, 1, 2]).all() and (np.sort(sets[:, 4:], axis=1) == [3, 4]).all()
    assert len(np.unique(sets, axis=0)) == 6 * 2


def scored(rng, planted, n_cells=80, n_genes=8, length=5):
    """Random edges in random cells; an edge from gene 0 to gene 1 where one is planted."""
    labels = np.concatenate([rng.permutation(n_genes)[:length] for _ in range(n_cells)])
    sets = permute_labels(labels, np.tile(np.arange(length), n_cells), 20, rng)
    sums = EdgeSums(n_genes, 21)
    for cell in range(n_cells):
        own = sets[:, cell * length : (cell + 1) * length]
        scores = rng.gamma(1.0, 1.0, (length, length))
        if planted:
            scores[np.ix_(own[0] == 0, own[0] == 1)] += 2
        sums.add(own, own, scores)
    return compare_edges(sums.means(2))


def test_p_values_are_uniform_without_an_edge():
    rng = np.random.default_rng(1)
    p = np.concatenate([scored(rng, planted=False)[1].ravel() for _ in range(8)])
    p = p[np.isfinite(p)]
    assert len(p) > 400 and kstest(p, "uniform").pvalue > 0.01


def test_a_planted_edge_has_the_smallest_p():
    z, p = scored(np.random.default_rng(2), planted=True)
    assert np.nanargmin(p) == 1 and np.nanargmax(z) == 1 and p[0, 1] < 0.002


def test_pairs_without_a_null_have_no_p():
    means = np.full((5, 2, 2), np.nan)
    means[:, 0, 1] = 1.0  # no variation
    means[0, 1, 0] = 1.0  # no permutation
    z, p = compare_edges(means)
    assert np.isnan(z).all() and np.isnan(p).all()


def test_z_is_in_units_of_the_null():
    means = np.array([10.0, 1, 2, 3, 2])[:, None, None] * np.ones((1, 1, 1))
    assert compare_edges(means)[0].item() == pytest.approx((10 - 2) / np.std([1, 2, 3, 2], ddof=1))
