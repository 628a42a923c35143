"""The two halves of what a head reads: the backbone's embedding, and linear components of the genes."""

from __future__ import annotations

import numpy as np


def state_key(embedding: str) -> str:
    """The key of obsm that holds what the head reads, beside the key of the backbone's embedding."""
    return f"{embedding}_state"


def gene_components(embedding: np.ndarray, state: np.ndarray | None) -> np.ndarray | None:
    """The gene components inside a head's state, which are its last columns, after those of the embedding.

    Args:
        embedding: (B, D) of the backbone alone.
        state: (B, D + k) that the head reads; None where the head has none.

    Returns:
        (B, k); None where the head reads no components.
    """
    if state is None or state.shape[1] <= embedding.shape[1]:
        return None
    return state[:, embedding.shape[1] :]
