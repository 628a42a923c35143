"""What a sketch is drawn by, block by block: logarithms of variable genes, or an embedding in obsm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from scfm.cells.file import CellFile

#: Counts of a cell are brought to this sum before their logarithm.
DEPTH = 10_000.0

#: (first row, (B, d) float64 features) of each block.
Blocks = Iterator[tuple[int, np.ndarray]]


class Features(ABC):
    """Features of the cells of a file, read in passes.

    Attributes:
        n_cells: rows.
        width: d.
    """

    n_cells: int
    width: int

    @abstractmethod
    def blocks(self, advance: Callable[[int], None] = lambda n: None) -> Blocks:
        """All cells in order; ``advance`` is told of the cells of each block."""


class Embedded(Features):
    """An embedding in ``obsm`` of an .h5ad.

    Args:
        path: the file.
        key: of obsm.
        block_size: cells read at once.

    Raises:
        ValueError: no such key, or a cell without a finite embedding.
    """

    def __init__(self, path: Path, key: str, block_size: int) -> None:
        self.path, self.key, self.block_size = path, key, block_size
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path} is no .h5ad; key={key!r} names an embedding in obsm, or leave key out")
        with h5py.File(path) as file:
            have = [name for name in file.get("obsm", {}) if isinstance(file["obsm"][name], h5py.Dataset)]
            if key not in have:
                raise ValueError(
                    f"{path}: obsm has no matrix {key!r}; it has {', '.join(have) or 'none'}. scfm-embed writes "
                    "X_scfm; without key variable genes are read"
                )
            self.n_cells, self.width = file["obsm"][key].shape

    def blocks(self, advance: Callable[[int], None] = lambda n: None) -> Blocks:
        """See the base class."""
        with h5py.File(self.path) as file:
            values = file["obsm"][self.key]
            for low in range(0, self.n_cells, self.block_size):
                part = np.asarray(values[low : low + self.block_size], dtype=np.float64)
                bad = ~np.isfinite(part).all(axis=1)
                if bad.any():
                    raise ValueError(
                        f"{self.path}: cell {low + int(bad.argmax())} has no finite obsm[{self.key!r}]; leave such "
                        "cells out of the file first"
                    )
                yield low, part
                advance(len(part))


class Expression(Features):
    """log(1 + 10,000 x / total) of the genes that vary most beyond what their mean explains; takes a pass to choose.

    Args:
        cells: an open file.
        n_genes: genes that are read.
        block_size: cells read at once.
        advance: told of the cells of that pass.
    """

    def __init__(
        self, cells: CellFile, n_genes: int, block_size: int, advance: Callable[[int], None] = lambda n: None
    ) -> None:
        self.cells, self.block_size, self.n_cells = cells, block_size, cells.n_cells
        total, square = np.zeros(len(cells.genes)), np.zeros(len(cells.genes))
        for block in cells.blocks(size=block_size, columns=[]):
            logs = _logarithms(block.counts, whole=cells.is_counts)
            total += np.asarray(logs.sum(axis=0)).ravel()
            square += np.asarray(logs.multiply(logs).sum(axis=0)).ravel()
            advance(logs.shape[0])
        self.genes = choose_genes(total / self.n_cells, square / self.n_cells, n_genes)
        self.width = len(self.genes)

    def blocks(self, advance: Callable[[int], None] = lambda n: None) -> Blocks:
        """See the base class."""
        for block in self.cells.blocks(size=self.block_size, columns=[]):
            logs = _logarithms(block.counts, whole=self.cells.is_counts)[:, self.genes]
            yield block.start, logs.toarray().astype(np.float64)
            advance(logs.shape[0])


def _logarithms(counts: csr_matrix, *, whole: bool) -> csr_matrix:
    values = csr_matrix(counts, dtype=np.float64)
    if whole:
        totals = np.asarray(values.sum(axis=1)).ravel()
        values.data *= np.repeat(DEPTH / np.maximum(totals, 1), np.diff(values.indptr))
        np.log1p(values.data, out=values.data)
    return values


def choose_genes(mean: np.ndarray, square: np.ndarray, n_genes: int) -> np.ndarray:
    """Genes whose variance is largest beside a parabola in the logarithm of their mean; ascending columns.

    Args:
        mean: (G,) of the logarithms over all cells.
        square: (G,) mean of their squares.
        n_genes: at most.

    Raises:
        ValueError: no gene varies.
    """
    variance = square - mean**2
    usable = np.flatnonzero((mean > 0) & (variance > 1e-12))
    if not len(usable):
        raise ValueError("no gene varies among the cells: there is nothing to draw a sketch by")
    x, y = np.log(mean[usable]), np.log(variance[usable])
    trend = np.polyval(np.polyfit(x, y, min(2, len(usable) - 1)), x)
    order = np.argsort(-(y - trend), kind="stable")
    return np.sort(usable[order[:n_genes]])
