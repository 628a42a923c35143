"""Local inverse Simpson's index: how many labels or batches a neighborhood effectively holds (Korsunsky 2019)."""

import numpy as np

from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.neighbors import Neighbors, find_neighbors


def lisi(neighbors: Neighbors, groups: np.ndarray, perplexity: float | None = None) -> np.ndarray:
    """LISI of each cell: 1 / Σ_c (Σ_{j of c} P_ij)².

    Args:
        neighbors: with the cell itself, which has no weight.
        groups: (B,) codes.
        perplexity: effective neighbors; None for a third of the neighbors, rounded down.

    Returns:
        (B,) between 1 and the number of groups; -1 where a cell has no neighbor.
    """
    if perplexity is None:
        perplexity = neighbors.indices.shape[1] // 3
    weights, entropy = _weights(neighbors, perplexity)
    n_groups = int(groups.max()) + 1
    shares = np.zeros((len(groups), n_groups))
    np.add.at(shares, (np.arange(len(groups))[:, None], groups[neighbors.indices]), weights)
    simpson = (shares**2).sum(axis=1)
    return np.where(entropy == 0, -1.0, 1 / np.where(simpson > 0, simpson, 1.0))


def _weights(neighbors: Neighbors, perplexity: float, tolerance: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """(B, k) P_ij ∝ exp(−β_i d_ij), β_i by at most 50 bisections to the perplexity's entropy; and the entropies.

    Distances are taken from the nearest cell's, which changes no P and keeps far cells from underflow.
    """
    others = neighbors.indices != np.arange(len(neighbors.indices))[:, None]
    nearest = np.where(others, neighbors.distances, np.inf).min(axis=1, initial=np.inf)
    distances = neighbors.distances - np.where(np.isfinite(nearest), nearest, 0)[:, None]
    low, high = np.full(len(distances), -np.inf), np.full(len(distances), np.inf)
    beta = np.ones(len(distances))
    wanted = np.log(perplexity)
    weights, entropy = _entropy(distances, others, beta)
    for _ in range(50):
        missing = entropy - wanted
        open_rows = np.abs(missing) >= tolerance
        if not open_rows.any():
            break
        flat = missing > 0
        low, high = np.where(flat, beta, low), np.where(flat, high, beta)
        up = np.where(np.isinf(high), beta * 2, (beta + high) / 2)
        down = np.where(np.isinf(low), beta / 2, (beta + low) / 2)
        beta = np.where(open_rows, np.where(flat, up, down), beta)
        weights, entropy = _entropy(distances, others, beta)
    return weights, entropy


def _entropy(distances: np.ndarray, others: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    powers = np.where(others, np.exp(-np.maximum(distances, 0) * beta[:, None]), 0.0)
    total = powers.sum(axis=1)
    safe = np.where(total > 0, total, 1.0)
    entropy = np.log(safe) + beta * (distances * powers).sum(axis=1) / safe
    return powers / safe[:, None], np.where(total > 0, entropy, 0.0)


def clisi(neighbors: Neighbors, labels: np.ndarray) -> float:
    """(L − median LISI) / (L − 1) over labels: 1 when neighborhoods hold one label."""
    n_labels = int(labels.max()) + 1
    return float((n_labels - np.median(lisi(neighbors, labels))) / (n_labels - 1))


def ilisi(neighbors: Neighbors, batch: np.ndarray) -> float:
    """(median LISI − 1) / (B − 1) over batches: 1 when neighborhoods hold all batches evenly."""
    n_batches = int(batch.max()) + 1
    return float((np.median(lisi(neighbors, batch)) - 1) / (n_batches - 1))


def cilisi(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray, n_jobs: int = 1) -> float:
    """Mean over types of (LISI of batches − 1)/(B_c − 1), inside each type (Andreatta et al., 2024).

    Types with at least 10 cells and 2 batches; 90 neighbors at perplexity 30, fewer in small types.

    Args:
        embedding: (B, D).
        labels: (B,) codes.
        batch: (B,) codes.
        n_jobs: threads.

    Returns:
        The score; NaN when no type qualifies.
    """
    means = []
    for label in np.unique(labels):
        own = labels == label
        inner = to_codes(batch[own])
        if own.sum() < 10 or inner.max() == 0:
            continue
        values = lisi(find_neighbors(embedding[own], 90, n_jobs=n_jobs), inner)
        means.append(np.mean((values - 1) / inner.max()))
    return float(np.mean(means)) if means else float("nan")
