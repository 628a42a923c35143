"""Gene axes that are read from counts, and what one half of a cell's counts tells about the other half."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags

from scfm.model.readout import TARGET_SUM
from scfm.model.start.factorization import component_loadings

#: Ridge penalty of the regression of one half on the other, in mean variances of an axis.
RIDGE = 0.01
#: Share of a cell's counts that its first half gets, from and to.
SHARES = (0.3, 0.7)


@dataclass(frozen=True)
class Axes:
    """What :class:`~scfm.model.denoiser.Denoiser` reads a cell by.

    Attributes:
        axes: (V, D) float32, a_g; zeros for tokens without an embedding.
        center: (D,) float32, c.
        linear: (D, D) float32, W.
        explained: share of the variance of the axes of one half that W finds from the other half, on the cells it was
            fitted on.
    """

    axes: np.ndarray
    center: np.ndarray
    linear: np.ndarray
    explained: float


def fit_axes(
    read: Callable[[], Iterable[csr_matrix]],
    embedding: np.ndarray,
    *,
    width: int,
    components: int,
    passes: int,
    seed: int,
) -> Axes:
    """Principal components and embeddings of genes as the axes of a cell, the ones that two halves agree on.

    The columns of ``embedding`` and ``components`` principal components of ln(1 + count per 10,000) are read from every
    cell as y = sum v a / sum v and brought to mean 0 and variance 1. Every cell's counts are divided into two halves
    (n = a + b, a ~ Binomial(n, u)), which measure the cell independently (data thinning, Neufeld et al. 2024). The
    ``width`` directions whose covariance between halves is largest stay, turned toward the embeddings' columns so that
    no coordinate is much smaller than the others; W = (A'A + B'B + ridge)^-1 (A'B + B'A) is the
    ridge regression between the halves on these.

    Args:
        read: the cells in blocks, counts (cells x V) of genes; called several times.
        embedding: (V, E), zeros where a token has none.
        width: D; where there are fewer directions the last columns stay 0.
        components: number of principal components.
        passes: iterations of the randomized SVD.
        seed: of the SVD and of the halves.
    """
    n_tokens = embedding.shape[0]
    known = np.flatnonzero(np.abs(embedding).sum(1) > 0)
    components = max(0, min(components, len(known) - 1))
    table = np.zeros((n_tokens, components + embedding.shape[1]), dtype=np.float64)
    table[:, components:] = embedding
    if components:
        narrowed = lambda: (log_counts(block)[:, known] for block in read())  # noqa: E731
        table[known, :components] = component_loadings(narrowed, len(known), components, passes=passes, seed=seed)
    mean, deviation, within, between = _moments(read, table, seed)
    table, mean = table / deviation, mean / deviation
    within, between = within / np.outer(deviation, deviation), between / np.outer(deviation, deviation)
    values, vectors = np.linalg.eigh(between)
    chosen = _turn(vectors[:, np.argsort(-values, kind="stable")[:width]], components)
    within, between = chosen.T @ within @ chosen, chosen.T @ between @ chosen
    penalty = RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    linear = np.linalg.solve(within + penalty, between)
    explained = (2 * np.trace(linear.T @ between) - np.trace(linear.T @ within @ linear)) / np.trace(within)
    return Axes(
        _widen(table @ chosen, (n_tokens, width)),
        _widen(mean @ chosen, (width,)),
        _widen(linear, (width, width)),
        float(explained),
    )


def _turn(directions: np.ndarray, first: int) -> np.ndarray:
    """The same space in coordinates as near as can be to the axes from ``first`` on (orthogonal Procrustes problem)."""
    wanted = directions[first : first + directions.shape[1]]
    if wanted.shape[0] < directions.shape[1]:  # fewer axes than directions: nothing to turn the rest toward
        return directions
    left, _, right = np.linalg.svd(wanted.T)
    return directions @ left @ right


def log_counts(counts: csr_matrix) -> csr_matrix:
    """ln(1 + count per 10,000) of each cell, (N, V); a cell without counts stays empty."""
    totals = np.asarray(counts.sum(1)).ravel()
    scale = np.divide(TARGET_SUM, totals, out=np.zeros(len(totals)), where=totals > 0)
    scaled = (diags(scale) @ counts).tocsr()
    scaled.data = np.log1p(scaled.data)
    return scaled


def _read_axes(counts: csr_matrix, table: np.ndarray) -> np.ndarray:
    """Y before it is centered, (N, K)."""
    values = log_counts(counts)
    totals = np.asarray(values.sum(1)).ravel()
    return np.asarray(values @ table) / np.maximum(totals, 1e-6)[:, None]


def _moments(
    read: Callable[[], Iterable[csr_matrix]], table: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of whole cells (K,); around the mean, second moments of halves and between them (K, K)."""
    size, n = table.shape[1], 0
    total, square = np.zeros(size), np.zeros(size)
    for block in read():
        whole = _read_axes(block, table)
        total, square, n = total + whole.sum(0), square + (whole**2).sum(0), n + len(whole)
    mean = total / max(n, 1)
    deviation = np.sqrt(np.maximum(square / max(n, 1) - mean**2, 0))
    deviation[deviation < 1e-9 * max(deviation.max(), 1e-300)] = np.inf  # says nothing: left out
    rng = np.random.default_rng(seed)
    within, between = np.zeros((size, size)), np.zeros((size, size))
    for block in read():
        share = rng.uniform(*SHARES, block.shape[0])
        first = block.copy()
        counts = np.rint(block.data).astype(np.int64)
        first.data = rng.binomial(counts, np.repeat(share, np.diff(block.indptr))).astype(block.dtype)
        second = block.copy()
        second.data = counts.astype(block.dtype) - first.data
        one, two = _read_axes(first, table) - mean, _read_axes(second, table) - mean
        within += (one.T @ one + two.T @ two) / 2
        between += (one.T @ two + two.T @ one) / 2
    return mean, deviation, within / max(n, 1), between / max(n, 1)


def _widen(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The values in the first places of an array of zeros, float32."""
    wide = np.zeros(shape, dtype=np.float32)
    wide[tuple(slice(size) for size in values.shape)] = values
    return wide
