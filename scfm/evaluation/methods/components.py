"""The two halves of what a head reads: the backbone's embedding, and linear components of the genes."""

from __future__ import annotations

import numpy as np

#: Columns of at least this correlation hold the same dimension.
SAME = 0.99


def state_key(embedding: str) -> str:
    """The key of obsm that holds what the head reads, beside the key of the backbone's embedding."""
    return f"{embedding}_state"


def gene_components(embedding: np.ndarray, state: np.ndarray | None) -> np.ndarray | None:
    """The gene components inside a head's state, which are its last columns, after those of the embedding.

    Args:
        embedding: (B, D) of the backbone alone.
        state: (B, D + k) that the head reads; None where the head has none.

    Returns:
        (B, k); None where the head reads no components, or components alone.
    """
    width = embedding.shape[1]
    if state is None or state.shape[1] <= width or not _begins_with(state[:, :width], embedding):
        return None
    return state[:, width:]


def _begins_with(start: np.ndarray, embedding: np.ndarray) -> bool:
    """Whether columns are an embedding as it is, or as a LayerNorm with weights of its own gives it."""
    centered = embedding - embedding.mean(axis=1, keepdims=True)
    normalized = centered / np.maximum(centered.std(axis=1, keepdims=True), 1e-12)
    return any(np.median(_correlations(start, values)) > SAME for values in (embedding, normalized))


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(D,) absolute correlation of each pair of columns; 0 where one is constant."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return np.abs((first * second).sum(axis=0)) / np.where(scale > 0, scale, 1.0)
