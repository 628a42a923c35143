"""Whether an embedding kept the geometry of the data: what high batch scores may have cost."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import pearsonr, spearmanr, trim_mean

from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.neighbors import find_neighbors


def neighbor_overlap(before: np.ndarray, after: np.ndarray, groups: np.ndarray | None = None, k: int = 30) -> float:
    """Share of a cell's nearest cells that are the same in both embeddings, searched inside its own group.

    With real batches as groups it shows what integration did inside a batch; with random pseudo-batches of one batch,
    which differ in nothing, it should stay near 1.

    Args:
        before: (B, D).
        after: (B, D').
        groups: (B,); None searches among all cells.
        k: neighbors, the cell itself not counted; fewer in groups of at most k cells.

    Returns:
        Mean over cells; NaN when every group has one cell.
    """
    owner = np.zeros(len(before), dtype=np.int64) if groups is None else to_codes(groups)
    shares = []
    for code in range(int(owner.max()) + 1):
        own = owner == code
        wanted = min(k, int(own.sum()) - 1)
        if wanted > 0:
            first, second = (find_neighbors(values[own], wanted + 1).indices[:, 1:] for values in (before, after))
            shares.extend((first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1))
    return float(np.mean(shares)) if shares else float("nan")


def ksim(embedding: np.ndarray, labels: np.ndarray, k: int = 25) -> float:
    """KSIM (pegasus): share of cells of whose ``min(k, √n)`` neighbors, itself included, 90 % are of its own type."""
    labels = to_codes(labels)
    near = find_neighbors(embedding, max(2, min(k, int(np.sqrt(len(labels))))))
    same = (labels[near.indices] == labels[:, None]).mean(axis=1)
    return float((same >= 0.9).mean())


def consensus_distances(batches: Iterable[tuple[np.ndarray, np.ndarray]], n_labels: int) -> np.ndarray:
    """Mean distances between types inside batches, before any integration (scGraph, Wang et al., 2024).

    Per batch: 5 %-trimmed centroids of the types with at least 10 cells, their distances divided by each column's
    largest; the mean over batches, again divided.

    Args:
        batches: features (n, D) and type codes (n,) of each batch, the features computed from that batch alone.
        n_labels: number of types C.

    Returns:
        (C, C) distances; NaN for pairs of types that no batch holds.
    """
    tables = [np.full((n_labels, n_labels), np.nan)]
    tables += [_relative(_centroid_distances(values, labels, n_labels)) for values, labels in batches]
    stacked = np.stack(tables)
    count = np.isfinite(stacked).sum(axis=0)
    mean = np.divide(np.nansum(stacked, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return _relative(mean)


def scgraph(embedding: np.ndarray, labels: np.ndarray, consensus: np.ndarray) -> dict[str, float]:
    """Whether types lie in an embedding as they do inside the batches: a supervised map may tear them apart.

    Args:
        embedding: (B, D).
        labels: (B,) type codes.
        consensus: of :func:`consensus_distances`.

    Returns:
        Means over types of ``scgraph_spearman``, ``scgraph_pearson`` and ``scgraph`` (Pearson weighted with
        1 / distance, the published score); NaN without two distances of any type.
    """
    return _agreement(consensus, _relative(_centroid_distances(embedding, labels, len(consensus))))


def _centroid_distances(values: np.ndarray, labels: np.ndarray, n_labels: int) -> np.ndarray:
    """(C, C) Euclidean distances of trimmed centroids; NaN rows for types of fewer than 10 cells."""
    centers = np.full((n_labels, values.shape[1]), np.nan)
    for label in range(n_labels):
        if (labels == label).sum() >= 10:
            centers[label] = trim_mean(values[labels == label], 0.05, axis=0)
    return np.sqrt(((centers[:, None] - centers[None]) ** 2).sum(axis=2))


def _relative(distances: np.ndarray) -> np.ndarray:
    largest = np.max(np.where(np.isfinite(distances), distances, 0), axis=0)
    return distances / np.where(largest > 0, largest, np.nan)


def _agreement(consensus: np.ndarray, distances: np.ndarray) -> dict[str, float]:
    rows: list[tuple[float, float, float]] = []
    for i in range(len(consensus)):
        use = np.isfinite(consensus[:, i]) & np.isfinite(distances[:, i])
        use[i] = False
        if use.sum() >= 2:
            true, ours = consensus[use, i], distances[use, i]
            rows.append(
                (spearmanr(true, ours).statistic, pearsonr(true, ours).statistic, _weighted_pearson(true, ours))
            )
    means = np.nanmean(rows, axis=0) if rows else np.full(3, np.nan)
    return dict(zip(("scgraph_spearman", "scgraph_pearson", "scgraph"), map(float, means), strict=True))


def _weighted_pearson(true: np.ndarray, ours: np.ndarray) -> float:
    """Pearson correlation with weights 1 / true distance."""
    weight = 1 / np.maximum(true, 1e-12)
    weight /= weight.sum()
    first, second = true - weight @ true, ours - weight @ ours
    scale = np.sqrt((weight @ first**2) * (weight @ second**2))
    return float((weight @ (first * second)) / scale) if scale > 0 else float("nan")
