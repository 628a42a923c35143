"""Marker genes of groups by expression, and how well another ranking of genes agrees with them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

#: Genes ranked at once.
CHUNK = 512


def rank_sum(values: csr_matrix, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Z of the Wilcoxon rank-sum test of each group against all other cells, corrected for ties.

    Args:
        values: (B, G) expression.
        codes: (B,) group of each cell, 0 to C - 1.
        n_groups: C.

    Returns:
        (C, G), large where the group has more; NaN for a group that has no cell or all cells, 0 for a constant gene.
    """
    n_cells, n_genes = values.shape
    sizes = np.bincount(codes, minlength=n_groups).astype(np.float64)
    members = csr_matrix((np.ones(n_cells), (codes, np.arange(n_cells))), shape=(n_groups, n_cells))
    z = np.empty((n_groups, n_genes))
    columns = values.tocsc()
    for start in range(0, n_genes, CHUNK):
        part = columns[:, start : start + CHUNK].toarray()
        ranks = rankdata(part, axis=0)
        others = n_cells - sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = (sizes * others / 12)[:, None] * (n_cells + 1 - _ties(part) / (n_cells * (n_cells - 1)))
            centered = members @ ranks - (sizes * (n_cells + 1) / 2)[:, None]
            score = centered / np.sqrt(variance)
        score[:, np.ptp(part, axis=0) == 0] = 0
        score[(sizes == 0) | (others == 0)] = np.nan
        z[:, start : start + CHUNK] = score
    return z


def precision_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of the k genes of largest score that are among the k of largest truth.

    Args:
        scores: (G,), NaN for genes that cannot be ranked; they come last.
        truth: (G,).
        k: genes.
    """
    first = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:k]
    best = np.argsort(-np.nan_to_num(truth, nan=-np.inf), kind="stable")[:k]
    return float(np.isin(first, best).mean())


def ndcg_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Normalized discounted cumulative gain of the first k genes, the gain of a gene being its truth, at least 0.

    Σ_i gain_i / log2(i + 1) over the ranking, divided by that of the best ranking (Järvelin & Kekäläinen 2002). NaN
    where no gene has a gain.
    """
    gain = np.maximum(np.nan_to_num(truth), 0)
    discount = 1 / np.log2(np.arange(2, min(k, len(gain)) + 2))
    first = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:k]
    best = float((np.sort(gain)[::-1][:k] * discount).sum())
    return float((gain[first] * discount).sum() / best) if best > 0 else float("nan")


def _ties(values: np.ndarray) -> np.ndarray:
    """Σ (t³ − t) over the tied runs of each column, (G,)."""
    ordered = np.sort(values, axis=0)
    total = np.empty(values.shape[1])
    for column in range(values.shape[1]):
        own = ordered[:, column]
        edges = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1], [True]]))
        runs = np.diff(edges).astype(np.float64)
        total[column] = (runs**3 - runs).sum()
    return total
