"""Silhouettes of labels and of batches, as scib-metrics 0.5.10 defines them."""

from typing import Literal

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

Between = Literal["nearest", "mean_other"]


def to_codes(values: np.ndarray) -> np.ndarray:
    """(B,) int64 codes 0, 1, ... of arbitrary values."""
    return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)


def silhouette_samples(
    embedding: np.ndarray, groups: np.ndarray, *, metric: str = "euclidean", between: Between = "nearest"
) -> np.ndarray:
    """(β − α) / max(α, β) of each cell.

    Args:
        embedding: (B, D).
        groups: (B,) codes 0, 1, ...
        metric: distance.
        between: β is the mean distance to the nearest other group, or to all cells of other groups together.

    Returns:
        (B,) in [-1, 1]; 0 for the only cell of a group.
    """
    sizes = np.bincount(groups).astype(np.float64)
    members = np.eye(len(sizes))[groups]

    def reduce(distances: np.ndarray, start: int) -> np.ndarray:
        """Mean distance inside the group and to others, (rows, 2), of consecutive rows of distances."""
        rows, own = np.arange(len(distances)), groups[start : start + len(distances)]
        sums = distances @ members
        inside = sums[rows, own].copy()
        if between == "nearest":
            sums[rows, own] = np.inf
            outside = (sums / sizes).min(axis=1)
        else:
            sums[rows, own] = 0.0
            outside = sums.sum(axis=1) / (len(groups) - sizes[own])
        return np.column_stack([inside, outside])

    parts = pairwise_distances_chunked(np.asarray(embedding, dtype=np.float64), metric=metric, reduce_func=reduce)
    inside, outside = np.concatenate(list(parts)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = inside / (sizes[groups] - 1)
        values = (outside - inside) / np.maximum(inside, outside)
    return np.where(np.isfinite(values), values, 0.0)


def silhouette_label(samples: np.ndarray) -> float:
    """Mean silhouette over all cells, moved to [0, 1]."""
    return float((samples.mean() + 1) / 2)


def isolated_labels(samples: np.ndarray, labels: np.ndarray, batch: np.ndarray) -> float:
    """Mean silhouette, in [0, 1], of the labels that occur in the fewest batches; mean over these labels."""
    present = np.zeros((labels.max() + 1, batch.max() + 1), dtype=bool)
    present[labels, batch] = True
    n_batches = present.sum(axis=1)
    isolated = np.flatnonzero(n_batches == n_batches[n_batches > 0].min())
    return float(np.mean([(samples[labels == label].mean() + 1) / 2 for label in isolated]))


def bras(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray) -> float:
    """Batch removal adapted silhouette (Rautenstrauch & Ohler, 2025): 1 is mixed, 0 is apart.

    Per label with at least two batches: the mean of 1 − |s|, s the cosine silhouette of batches with β the mean
    distance to all cells of other batches; then the mean over labels.

    Args:
        embedding: (B, D).
        labels: (B,) codes.
        batch: (B,) codes.

    Returns:
        The score; NaN when no label has two batches.
    """
    means = []
    for label in np.unique(labels):
        own = labels == label
        inner = to_codes(batch[own])
        if inner.max() == 0 or inner.max() + 1 == own.sum():
            continue
        samples = silhouette_samples(embedding[own], inner, metric="cosine", between="mean_other")
        means.append(1 - np.abs(samples).mean())
    return float(np.mean(means)) if means else float("nan")
