"""Rank-sum scores against scipy, and agreement of rankings by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu, norm

from scfm.metrics.markers import ndcg_at, precision_at, rank_sum


def test_z_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    values, codes = rng.poisson(1.0, (60, 5)).astype(float), np.arange(60) % 3
    values[codes == 1, 2] += 2
    z = rank_sum(csr_matrix(values), codes, 3)
    for group in range(3):
        theirs = mannwhitneyu(values[codes == group], values[codes != group], use_continuity=False, method="asymptotic")
        assert np.allclose(2 * norm.sf(np.abs(z[group])), theirs.pvalue)
    assert z[1, 2] > 3 and z[0, 2] < 0


def test_constant_genes_and_single_groups():
    values = csr_matrix(np.array([[1.0, 2], [1, 3], [1, 4]]))
    assert rank_sum(values, np.array([0, 0, 1]), 3)[0, 0] == 0
    assert np.isnan(rank_sum(values, np.array([0, 0, 1]), 3)[2]).all()
    assert np.isnan(rank_sum(values, np.zeros(3, dtype=int), 1)).all()


def test_agreement_by_hand():
    truth = np.array([4.0, 3, 2, 1, -5])
    assert precision_at(truth, truth, 2) == 1 and precision_at(-truth, truth, 2) == 0
    assert precision_at(np.array([np.nan, 1, 0, 0, 0]), truth, 1) == 0
    swapped = np.array([3.0, 4, 0, 0, 0])
    best = 4 + 3 / np.log2(3)
    assert ndcg_at(swapped, truth, 2) == pytest.approx((3 + 4 / np.log2(3)) / best)
    assert ndcg_at(truth, truth, 5) == pytest.approx(1)
    assert np.isnan(ndcg_at(truth, np.zeros(5), 3))
