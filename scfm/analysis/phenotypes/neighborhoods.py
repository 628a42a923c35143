"""Abundance of neighborhoods of cells against a phenotype of samples (CNA, Reshef et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags, eye
from scipy.stats import f as f_distribution
from scipy.stats import kurtosis

#: Fewest samples with which an association is computed.
MIN_SAMPLES = 10
#: Steps of the random walk, at most.
MAX_STEPS = 15


@dataclass(frozen=True)
class Association:
    """What neighborhoods have to do with a phenotype.

    Attributes:
        p: of the whole, by permutation.
        k: sample components of the best test.
        r: (n,) correlation of each cell's neighborhood with the phenotype as these components see it; NaN for dropped
            ones.
        fdr: (n,) false discovery rate at the cell's |r|.
        steps: of the random walk.
        kept: (n,) bool, neighborhoods that do not follow the batch.
    """

    p: float
    k: int
    r: np.ndarray
    fdr: np.ndarray
    steps: int
    kept: np.ndarray


def neighborhood_abundance(graph: csr_matrix, place: np.ndarray, n_samples: int) -> tuple[np.ndarray, int]:
    """R Aᵗ: the share of each sample's random walks that end at each cell.

    A is the row-normalized graph with self-loops, R (S, n) one-hot over samples divided by their cells. t grows until
    the median kurtosis (over samples) of the cells falls by less than 3.

    Args:
        graph: (n, n) weights.
        place: (n,) sample of each cell.
        n_samples: S.

    Returns:
        (S, n) and t.
    """
    walk = csr_matrix(graph + eye(graph.shape[0], format="csr"))
    walk = csr_matrix(diags(1 / np.asarray(walk.sum(axis=1)).ravel()) @ walk)
    sizes = np.bincount(place, minlength=n_samples)
    rows = csr_matrix((1 / sizes[place], (place, np.arange(len(place)))), shape=(n_samples, len(place))).toarray()
    before = np.median(kurtosis(rows, axis=0))
    for step in range(1, MAX_STEPS + 1):
        rows = np.asarray((walk.T @ rows.T).T)
        now = np.median(kurtosis(rows, axis=0))
        if before - now < 3:
            return rows, step
        before = now
    return rows, MAX_STEPS


def follows_batch(abundance: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(n,) bool: neighborhoods whose kurtosis over batch means is above twice the median.

    Args:
        abundance: (S, n).
        batch: (S,) codes.
    """
    codes = np.unique(batch)
    if len(codes) < 2:
        return np.zeros(abundance.shape[1], dtype=bool)
    means = np.stack([abundance[batch == code].mean(axis=0) for code in codes])
    spread = kurtosis(means, axis=0, fisher=False)
    return spread > 2 * np.median(spread)


def associate(
    abundance: np.ndarray, truth: np.ndarray, *, batch: np.ndarray | None = None, covariates: np.ndarray | None = None,
    permutations: int = 1000, seed: int = 0, steps: int = 0,
) -> Association:  # fmt: skip
    """Test a phenotype against the components of neighborhood abundance over samples.

    F-tests of the phenotype on the first k components for a few k from N/50 to N/5; the smallest p of them is
    compared with that of labels permuted within batches. False discovery rates of cells come from the same
    permutations.

    Args:
        abundance: (S, n) by :func:`neighborhood_abundance`.
        truth: (S,) numbers.
        batch: (S,) codes; neighborhoods that follow it are dropped, and labels are permuted inside.
        covariates: (S, c) numbers that are regressed out of abundance and phenotype.
        permutations: of the labels.
        seed: of them.
        steps: of the walk, to be told.

    Raises:
        ValueError: fewer than ten samples, or a phenotype that does not vary.
    """
    n_samples = len(truth)
    if n_samples < MIN_SAMPLES:
        raise ValueError(f"{n_samples} samples; expected at least {MIN_SAMPLES} for an association of neighborhoods")
    if np.ptp(truth) == 0:
        raise ValueError("all samples have one label; expected two or more")
    batches = np.zeros(n_samples, dtype=int) if batch is None else batch
    kept = ~follows_batch(abundance, batches)
    out = _residual_maker(batches if batch is not None else None, covariates, n_samples)
    values = out @ abundance[:, kept]
    spread = values.std(axis=0)
    values = values / np.where(spread > 1e-12, spread, 1.0)
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    rank = int(np.linalg.matrix_rank(out))
    usable = singular > singular[0] * 1e-8
    left = left[:, usable]
    top = max(1, min(n_samples // 5, rank - 2, left.shape[1]))
    ks = np.unique(np.linspace(max(1, n_samples // 50), top, 4).astype(int))
    labels = np.stack([truth.astype(float), *_permuted(truth, batches, permutations, seed)])
    residuals = labels @ out.T
    residuals /= np.maximum(residuals.std(axis=1, keepdims=True), 1e-12)
    smallest, best = _smallest_p(residuals, left, ks, rank)
    p = float((1 + (smallest[1:] <= smallest[0] * (1 + 1e-9)).sum()) / (1 + permutations))
    r = np.full(abundance.shape[1], np.nan)
    fdr = np.full(abundance.shape[1], np.nan)
    each = np.stack([_correlations(values, left[:, : ks[best[i]]], residuals[i]) for i in range(len(residuals))])
    r[kept] = each[0]
    fdr[kept] = _false_discovery(np.abs(each[0]), np.abs(each[1:]))
    return Association(p, int(ks[best[0]]), r, fdr, steps, kept)


def _residual_maker(batch: np.ndarray | None, covariates: np.ndarray | None, n: int) -> np.ndarray:
    """(S, S) that subtracts mean, batches and covariates."""
    design = np.ones((n, 1)) if batch is None else np.eye(int(batch.max()) + 1)[batch]
    if covariates is not None:
        design = np.column_stack([design, covariates])
    return np.eye(n) - design @ np.linalg.pinv(design)


def _permuted(truth: np.ndarray, batch: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        labels = truth.astype(float)
        for code in np.unique(batch):
            own = np.flatnonzero(batch == code)
            labels[own] = rng.permutation(labels[own])
        found.append(labels)
    return found


def _smallest_p(residuals: np.ndarray, left: np.ndarray, ks: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(M,) smallest p over k, and which k."""
    explained = np.cumsum((residuals @ left) ** 2, axis=1)
    total = (residuals**2).sum(axis=1)
    table = []
    for k in ks:
        rest = np.maximum(total - explained[:, k - 1], 1e-12)
        table.append(f_distribution.sf((explained[:, k - 1] / k) / (rest / (rank - k)), k, rank - k))
    return np.min(table, axis=0), np.argmin(table, axis=0)


def _correlations(values: np.ndarray, left: np.ndarray, residual: np.ndarray) -> np.ndarray:
    fitted = left @ (left.T @ residual)
    return values.T @ fitted / len(fitted)


def _false_discovery(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(n,) mean number of null cells at or above each |r| over the number of cells there; monotone in |r|."""
    order = np.argsort(-observed, kind="stable")
    edges = np.sort(null.ravel())
    above = (len(edges) - np.searchsorted(edges, observed[order], side="left")) / max(len(null), 1)
    rate = above / np.arange(1, len(order) + 1)
    rate = np.minimum(np.minimum.accumulate(rate[::-1])[::-1], 1.0)
    found = np.empty(len(observed))
    found[order] = rate
    return found
