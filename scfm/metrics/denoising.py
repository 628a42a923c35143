"""How well denoised expression predicts molecules that it has not read, and what harm it does."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

#: The least expected count, so that a gene that is excluded and still seen costs much, not infinitely much.
LEAST = 1e-12
#: A share whose deviation is below this part of its mean does not vary: it is the rounding of float32.
STEADY = 1e-4


def poisson_deviance(counts: np.ndarray, expected: np.ndarray) -> float:
    """2 Σ [x ln(x / μ) − (x − μ)], with x ln x = 0 at 0 (McCullagh and Nelder 1989, 2.3).

    Args:
        counts: (n, G) x.
        expected: (n, G) μ.

    Example:
        >>> round(poisson_deviance(np.array([[2.0, 0.0]]), np.array([[1.0, 1.0]])), 3)
        2.773
    """
    mean = np.maximum(expected, LEAST)
    ratio = np.divide(counts, mean, out=np.ones_like(mean), where=counts > 0)
    return float(2 * (counts * np.log(ratio) - (counts - mean)).sum())


def explained_deviance(counts: np.ndarray, expected: np.ndarray, means: np.ndarray) -> float:
    """D² = 1 − deviance(μ) / deviance(gene means × total counts): 0 for the gene means, 1 for the counts themselves.

    Args:
        counts: (n, G) molecules that were not read.
        expected: (n, G) shares or expected counts; each cell is brought to the sum of its counts.
        means: (G,) shares of the genes in what was read, of sum 1.
    """
    total = counts.sum(axis=1, keepdims=True)
    scaled = expected / np.maximum(expected.sum(axis=1, keepdims=True), LEAST) * total
    return 1 - poisson_deviance(counts, scaled) / max(poisson_deviance(counts, total * means), LEAST)


def gene_correlations(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(G,) Pearson's correlation over cells of the shares of unread molecules with the expected shares.

    0 for a gene whose expected share, or whose unread share, is the same in all cells.

    Args:
        counts: (n, G) molecules that were not read.
        expected: (n, G) shares or expected counts.
    """
    x, y = _shares(counts), _shares(expected)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    product = (x * y).mean(axis=0)
    scale = x.std(axis=0) * y.std(axis=0)
    varies = y.std(axis=0) > STEADY * np.maximum(np.abs(_shares(expected)).mean(axis=0), LEAST)
    return np.divide(product, scale, out=np.zeros_like(product), where=varies & (scale > 0))


def zero_auc(counts: np.ndarray, expected: np.ndarray, read: np.ndarray) -> float:
    """AUC of "seen among the unread molecules" of all (cell, gene) whose count among those read is 0.

    Args:
        counts: (n, G) molecules that were not read.
        expected: (n, G) shares or expected counts; each cell is brought to the sum of its counts.
        read: (n, G) molecules that were read.
    """
    zero = read == 0
    seen = (counts > 0)[zero]
    ranks = rankdata((_shares(expected) * counts.sum(axis=1, keepdims=True))[zero])
    positive, negative = int(seen.sum()), int((~seen).sum())
    if not positive or not negative:
        return float("nan")
    return float((ranks[seen].sum() - positive * (positive + 1) / 2) / (positive * negative))


def false_positive_share(values: np.ndarray, halves: np.ndarray, level: float = 0.05) -> float:
    """Share of genes with p < level between two random halves of like cells, by Wilcoxon's rank-sum test.

    Args:
        values: (n, G) expression; genes that do not vary count as not different.
        halves: (n,) bool.
        level: nominal share.
    """
    from scipy.stats import mannwhitneyu

    varies = np.ptp(values, axis=0) > 1e-9 * np.maximum(np.abs(values).max(axis=0), LEAST)
    p = np.ones(values.shape[1])
    if varies.any():
        p[varies] = mannwhitneyu(values[halves][:, varies], values[~halves][:, varies], axis=0).pvalue
    return float((p < level).mean())


def mean_correlation(values: np.ndarray) -> float:
    """Mean |Pearson's correlation| over pairs of columns (n, G); pairs of a column that does not vary count as 0."""
    centered = values - values.mean(axis=0)
    spread = centered.std(axis=0)
    varies = spread > STEADY * np.maximum(np.abs(values).mean(axis=0), LEAST)
    scaled = np.where(varies, centered / np.where(varies, spread, 1.0), 0.0)
    r = np.abs(scaled.T @ scaled) / len(values)
    n = values.shape[1]
    return float((r.sum() - np.trace(r)) / max(n * (n - 1), 1))


def marker_leak(raw: np.ndarray, denoised: np.ndarray, types: np.ndarray, *, fold: float = 10.0) -> float:
    """Markers that appear in types that lack them: 0 for none, 1 where a type without a marker looks like its own type.

    A marker of type A against type B is a gene whose summed raw share in A is at least ``fold`` times that in B, and
    counted at least 20 times in A. Its leak is (denoised share in B − raw share in B) / (raw share in A − raw share in
    B); a sum over many cells has little noise, so the raw shares are the truth. The mean over all markers.

    Args:
        raw: (n, G) counts.
        denoised: (n, G) shares or expected counts.
        types: (n,) codes, -1 where unknown.
        fold: see above.
    """
    kinds = [kind for kind in np.unique(types) if kind >= 0]
    sums = np.stack([raw[types == kind].sum(axis=0) for kind in kinds]).astype(np.float64)
    truth = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)
    weight = raw.sum(axis=1, keepdims=True)
    given = np.stack([(weight * _shares(denoised))[types == kind].sum(axis=0) for kind in kinds])
    given = given / np.maximum(given.sum(axis=1, keepdims=True), LEAST)
    leaks: list[np.ndarray] = []
    for a in range(len(kinds)):
        for b in range(len(kinds)):
            marker = (truth[a] >= fold * truth[b]) & (sums[a] >= 20)
            if a != b and marker.any():
                leaks.append(((given[b] - truth[b]) / (truth[a] - truth[b]))[marker])
    return float(np.concatenate(leaks).mean()) if leaks else float("nan")


def _shares(values: np.ndarray) -> np.ndarray:
    shares: np.ndarray = values / np.maximum(values.sum(axis=1, keepdims=True), LEAST)
    return shares
