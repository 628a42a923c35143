"""UMAP maps of cells (McInnes et al., 2018), deterministic, from exact neighbors.

The same graph, loss and schedule as umap-learn, started from the first two principal components, which keeps the large
distances meaningful (Kobak & Linderman, 2021). Own code because importing umap-learn compiles for longer than a map of
some thousand cells takes.
"""

import numpy as np
from numba import njit
from scipy.optimize import curve_fit

from scfm.metrics.neighbors import find_neighbors


def umap(
    embedding: np.ndarray, *, n_neighbors: int = 15, min_dist: float = 0.5, seed: int = 0, n_jobs: int = 1
) -> np.ndarray:
    """Coordinates whose neighborhoods resemble those of the embedding.

    Args:
        embedding: (B, D) finite numbers.
        n_neighbors: the cell itself counted.
        min_dist: how closely cells may be drawn.
        seed: same seed, same map.
        n_jobs: threads for the neighbors.

    Returns:
        (B, 2) float32.
    """
    graph = find_neighbors(embedding, n_neighbors, n_jobs=n_jobs).connectivities().tocoo()
    n_epochs = 500 if len(embedding) <= 10_000 else 200
    strong = graph.data >= graph.data.max(initial=0) / n_epochs
    start = _principal_plane(np.asarray(embedding, dtype=np.float64), seed)
    a, b = curve(min_dist)
    every = graph.data.max(initial=1) / graph.data[strong]
    head, tail = graph.row[strong].astype(np.int64), graph.col[strong].astype(np.int64)
    return _optimize(start, head, tail, every, a, b, n_epochs, np.random.default_rng(seed)).astype(np.float32)


def curve(min_dist: float) -> tuple[float, float]:
    """a, b of 1 / (1 + a d^(2b)) closest to 1 up to ``min_dist`` and exp(min_dist − d) beyond."""
    distance = np.linspace(0, 3, 300)
    wanted = np.where(distance < min_dist, 1.0, np.exp(min_dist - distance))
    (a, b), _ = curve_fit(lambda d, a, b: 1 / (1 + a * d ** (2 * b)), distance, wanted)
    return float(a), float(b)


def _principal_plane(embedding: np.ndarray, seed: int) -> np.ndarray:
    """(B, 2) first principal components within ±10, with a little noise that parts identical cells."""
    centered = embedding - embedding.mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    plane = centered @ vectors[:, np.argsort(-values)[:2]]
    if plane.shape[1] == 1:
        plane = np.column_stack([plane, np.zeros(len(plane))])
    plane *= 10 / max(np.abs(plane).max(), 1e-12)
    return plane + np.random.default_rng(seed).normal(scale=1e-2, size=plane.shape)


@njit(cache=True)
def _clip(value: float) -> float:
    return min(4.0, max(-4.0, value))


@njit(cache=True)
def _optimize(
    points: np.ndarray,
    head: np.ndarray,
    tail: np.ndarray,
    every: np.ndarray,
    a: float,
    b: float,
    n_epochs: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Stochastic gradient descent over the edges: an edge pulls each ``every`` epochs, five random cells push."""
    due = every.copy()
    n_cells = points.shape[0]
    for epoch in range(1, n_epochs + 1):
        rate = 1.0 - (epoch - 1) / n_epochs
        for edge in range(len(head)):
            if due[edge] > epoch:
                continue
            due[edge] += every[edge]
            one, two = head[edge], tail[edge]
            square = (points[one, 0] - points[two, 0]) ** 2 + (points[one, 1] - points[two, 1]) ** 2
            if square > 0:
                pull = -2 * a * b * square ** (b - 1) / (1 + a * square**b)
                for axis in range(2):
                    step = rate * _clip(pull * (points[one, axis] - points[two, axis]))
                    points[one, axis] += step
                    points[two, axis] -= step
            for _ in range(5):
                other = int(rng.random() * n_cells)
                square = (points[one, 0] - points[other, 0]) ** 2 + (points[one, 1] - points[other, 1]) ** 2
                if other != one and square > 0:
                    push = 2 * b / ((0.001 + square) * (1 + a * square**b))
                    for axis in range(2):
                        points[one, axis] += rate * _clip(push * (points[one, axis] - points[other, axis]))
    return points
