"""A UMAP of many cells, computed from a sample of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from scfm.metrics.neighbors import nearest

log = logging.getLogger(__name__)


def load_umap() -> Any:
    """The umap package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import umap
    except ImportError as error:
        raise ImportError(
            'a map needs umap-learn: pip install "scfm-framework[evaluate]" (before training only; a trained head '
            "does without it)"
        ) from error
    return umap


@contextmanager
def keep_threads() -> Iterator[None]:
    """Restore torch's number of threads afterward: numba changes it at its start, which slows small steps."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def density_sample(embedding: np.ndarray, size: int, seed: int, neighbor: int = 25) -> np.ndarray:
    """Rows drawn without replacement, with p ∝ distance to the 25th neighbor (Cumulus, Li et al. 2020), ascending.

    Args:
        embedding: (n, D).
        size: number of rows.
        seed: seed of the draw.
        neighbor: which neighbor's distance is used.
    """
    near = nearest(embedding, embedding, min(neighbor, len(embedding) - 1), itself=True)[:, -1]
    distance = np.linalg.norm(embedding - embedding[near], axis=1).astype(np.float64) + 1e-12
    chosen = np.random.default_rng(seed).choice(len(embedding), size, replace=False, p=distance / distance.sum())
    return np.sort(chosen)


@keep_threads()
def net_umap(
    features: np.ndarray, *, sample: int, neighbors: int, min_dist: float, polish: int, seed: int
) -> np.ndarray:
    """Coordinates of all cells by UMAP or, where there are more than ``sample``, by net-UMAP (Cumulus, pegasus).

    Net-UMAP lays out a sample, extends the layout to all cells by regression, and refines it by a few epochs of UMAP.

    Args:
        features: (n, D) scaled.
        sample: cells that UMAP lays out; they are chosen by density.
        neighbors: neighbors of each cell in UMAP's graph.
        min_dist: UMAP's ``min_dist``.
        polish: epochs of UMAP over all cells, from the regressed coordinates; 0 for none.
        seed: seed of the sample and of UMAP, which runs in one thread so that the result is reproducible.

    Returns:
        (n, 2) float32.

    Raises:
        ValueError: too few cells.
    """
    if len(features) <= neighbors + 1:
        raise ValueError(f"{len(features)} cells are too few for {neighbors} neighbors each; lower head.neighbors")
    options = {"n_neighbors": neighbors, "min_dist": min_dist, "random_state": seed, "n_jobs": 1}
    umap = load_umap()
    if sample >= len(features):
        return umap.UMAP(**options).fit_transform(features).astype(np.float32)
    chosen = density_sample(features, sample, seed)
    layout = umap.UMAP(**options).fit_transform(features[chosen])
    guess = _regress_layout(features, chosen, layout, seed)
    if polish == 0:
        return guess.astype(np.float32)
    return umap.UMAP(**options, init=guess, n_epochs=polish).fit_transform(features).astype(np.float32)


def _regress_layout(features: np.ndarray, sample: np.ndarray, layout: np.ndarray, seed: int) -> np.ndarray:
    """A network of 100-75-50-25 ReLU from the sample's features to its layout, applied to all cells."""
    from sklearn.neural_network import MLPRegressor

    scale = 15.0 / layout.std(axis=0).max()
    network = MLPRegressor(hidden_layer_sizes=(100, 75, 50, 25), alpha=0.1, random_state=seed, max_iter=500)
    network.fit(features[sample], layout * scale)
    return network.predict(features) / scale
