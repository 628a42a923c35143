"""Scores of correction that need a method to run again, or the counts: what arrays alone cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.decomposition import PCA

from scfm.evaluation.methods.expression import Expression
from scfm.metrics.structure import neighbor_overlap

#: (expression, batch names) -> (B, D) embedding
Integration = Callable[[Expression, np.ndarray], np.ndarray]

#: Batches of fewer cells have no geometry of types that could be compared.
MIN_CELLS = 100


def pseudo_kept(
    integrate: Integration,
    expression: Expression,
    batch: np.ndarray,
    seed: int = 0,
    start: Integration | None = None,
) -> float:
    """Neighborhoods kept when one batch is cut at random into three pseudo-batches and integrated.

    Args:
        integrate: the method, which is given the names of the pseudo-batches.
        expression: of all cells.
        batch: (B,) real batches; the largest one is cut.
        seed: of the cut.
        start: the space that the method changes; None for PCA of 50 components.

    Returns:
        Share of each cell's 30 nearest cells that the start of the same cells has too. 1 where nothing moved.
    """
    names, counts = np.unique(batch, return_counts=True)
    rows = np.flatnonzero(batch == names[counts.argmax()])
    part = expression.select(rows)
    pieces = np.random.default_rng(seed).permutation(len(rows)) % 3
    names = np.array(["a", "b", "c"], dtype=object)[pieces]
    before = part.principal_components(seed=seed) if start is None else start(part, names)
    return neighbor_overlap(before, integrate(part, names))


def batch_components(
    expression: Expression, labels: np.ndarray, batch: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Principal components of each batch by itself, for :func:`scfm.metrics.structure.consensus_distances`.

    Args:
        expression: log-normalized counts.
        labels: (B,) type codes.
        batch: (B,) batches, any values.

    Yields:
        Of each batch of at least 100 cells: 10 components of its 1000 most variable genes, (n, 10), and its labels.
    """
    for name in np.unique(batch):
        own = np.flatnonzero(batch == name)
        if len(own) >= MIN_CELLS:
            values = expression.select(own).scaled(n_genes=1000)
            reduce = PCA(min(10, min(values.shape) - 1), svd_solver="arpack", random_state=0)
            yield reduce.fit_transform(values), labels[own]
