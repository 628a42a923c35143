"""Matrices as AnnData lays them out in HDF5 and zarr: compressed by rows, by columns, or dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from scfm.cells.formats.inflate import Slices
from scfm.cells.formats.row_sorter import Entries, Scattered
from scfm.cells.source import Matrix

#: Where a sample is drawn from: this many stretches, spread evenly.
STRETCHES = 64

#: Stored values read at once while a matrix is turned from columns into rows (16 to 24 bytes each).
PIECE = 2_000_000

#: Bytes of a dense matrix held at once before it is made sparse.
SLAB = 1 << 25


def open_matrix(element: Any) -> Matrix:
    """The matrix of an HDF5 or zarr element of AnnData.

    Args:
        element: a dataset (dense) or a group with ``data``, ``indices``, ``indptr`` (CSR or CSC).

    Raises:
        ValueError: it is none of these, or its parts contradict each other.
    """
    if hasattr(element, "ndim"):
        return Dense(element)
    encoding = element.attrs.get("encoding-type") or element.attrs.get("h5sparse_format", "")
    shape = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
    if encoding in ("csr", "csr_matrix"):
        return Compressed(element, (int(shape[0]), int(shape[1])))
    if encoding in ("csc", "csc_matrix"):
        return Columns(element, (int(shape[0]), int(shape[1])))
    raise ValueError(
        f"its {element.name} is encoded as {encoding or 'nothing known'!r}, expected a CSR, CSC or dense matrix"
    )


def read_pointers(group: Any, n: int) -> np.ndarray:
    """``indptr`` of ``n`` compressed rows or columns, (n + 1,) int64.

    Raises:
        ValueError: ``data``, ``indices``, ``indptr`` and ``n`` do not fit together.
    """
    for part in ("data", "indices", "indptr"):
        if part not in group:
            raise ValueError(f"its {group.name} is damaged: it has no {part}")
    require_chunks(group["data"])
    pointers = np.asarray(group["indptr"][:], dtype=np.int64)
    stored = group["data"].shape[0]
    whole = len(pointers) == n + 1 and pointers[0] == 0 and pointers[-1] == stored == group["indices"].shape[0]
    if not whole or (np.diff(pointers) < 0).any():
        raise ValueError(
            f"its {group.name} is damaged: indptr has {len(pointers)} entries, expected {n + 1}, ending at "
            f"{pointers[-1] if len(pointers) else 'nothing'}, with {stored} values and "
            f"{group['indices'].shape[0]} indices"
        )
    return pointers


def require_chunks(array: Any) -> None:
    """Refuse a zarr array some of whose chunks were not copied: zarr reads them as zeros and says nothing.

    Raises:
        ValueError: naming the array.
    """
    expected = getattr(array, "nchunks", None) if hasattr(array, "nchunks_initialized") else None
    if expected and array.nchunks_initialized < expected:
        raise ValueError(f"its {array.name} has {array.nchunks_initialized} of {expected} chunks: copy it again")


class Compressed:
    """Compressed by rows (CSR). Memory: 8 bytes per row, and one block.

    Args:
        group: has ``data``, ``indices``, ``indptr``; numbers of the columns in ``indices``.
        shape: (cells, genes).
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.group = group
        self.shape = shape
        self.pointers = read_pointers(group, shape[0])

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`.

        Raises:
            ValueError: a column number is outside the matrix.
        """
        values, columns = Slices(self.group["data"]), Slices(self.group["indices"])
        for low in range(start, stop, size):
            pointers = self.pointers[low : min(stop, low + size) + 1]
            yield self._block(
                values(int(pointers[0]), int(pointers[-1])), columns(int(pointers[0]), int(pointers[-1])), pointers
            )

    def _block(self, values: np.ndarray, columns: np.ndarray, pointers: np.ndarray) -> csr_matrix:
        if len(columns) and columns.view(columns.dtype.str.replace("i", "u")).max() >= self.shape[1]:  # -1 is large
            raise ValueError(f"its {self.group.name} is damaged: a column number is outside {self.shape[1]} columns")
        block = csr_matrix((len(pointers) - 1, self.shape[1]), dtype=values.dtype)
        columns = columns.astype(np.int32, copy=False)
        block.data, block.indices, block.indptr = values, columns, (pointers - pointers[0]).astype(np.int32)
        return block

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of evenly spread stretches, see :class:`~scfm.cells.source.Matrix`."""
        values, entries = spread(self.group["data"], n)
        return values, np.searchsorted(self.pointers, entries, side="right") - 1

    def close(self) -> None:
        """Nothing to remove."""


class Columns:
    """Compressed by columns (CSC): turned into rows once, out of core, when the first block is asked for.

    Memory: one piece of the columns and one range of rows, about 300 MB together whatever the file's size; see
    :mod:`scfm.cells.formats.row_sorter` for the temporary disk.
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.group = group
        self.shape = shape
        self.pointers = read_pointers(group, shape[1])
        self._rows: Scattered | None = None

    def _entries(self) -> Iterator[Entries]:
        values, rows = Slices(self.group["data"]), Slices(self.group["indices"])
        for low in range(0, int(self.pointers[-1]), PIECE):
            high = min(low + PIECE, int(self.pointers[-1]))
            cells = rows(low, high)
            if cells.min() < 0 or cells.max() >= self.shape[0]:
                raise ValueError(f"its {self.group.name} is damaged: a row number is outside its {self.shape[0]} rows")
            yield cells, self._genes(low, high), values(low, high)

    def _genes(self, low: int, high: int) -> np.ndarray:
        """The column of each stored value from ``low`` to ``high``."""
        first = int(np.searchsorted(self.pointers, low, side="right")) - 1
        last = int(np.searchsorted(self.pointers, high, side="left"))
        edges = np.clip(self.pointers[first : last + 1], low, high)
        return np.repeat(np.arange(first, last, dtype=np.int32), np.diff(edges))

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`."""
        if self._rows is None:
            self._rows = Scattered(self.shape, int(self.pointers[-1]), self._entries(), self.group["data"].dtype)
        yield from self._rows.blocks(start, stop, size)

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of evenly spread stretches, see :class:`~scfm.cells.source.Matrix`."""
        values, entries = spread(self.group["data"], n)
        return values, np.asarray(spread(self.group["indices"], n)[0], dtype=np.int64)[: len(entries)]

    def close(self) -> None:
        """Remove the temporary files."""
        if self._rows is not None:
            self._rows.close()


class Dense:
    """Dense, made sparse block by block.

    Args:
        array: two-dimensional, of h5py or zarr.
        transposed: genes x cells, as loom has it.
    """

    def __init__(self, array: Any, transposed: bool = False) -> None:
        if array.ndim != 2:
            raise ValueError(f"its {array.name} has {array.ndim} dimensions, expected cells x genes")
        self.array = array
        self.transposed = transposed
        self.shape = (int(array.shape[transposed]), int(array.shape[not transposed]))

        chunk = array.chunks[int(transposed)] if array.chunks else 1
        fitting = SLAB // max(1, self.shape[1] * array.dtype.itemsize)
        self.slab = max(1, chunk, fitting // chunk * chunk)

    def _rows(self, low: int, high: int) -> csr_matrix:
        return csr_matrix(self.array[:, low:high].T if self.transposed else self.array[low:high])

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`."""
        for low in range(start, stop, size):
            high = min(stop, low + size)
            slabs = [self._rows(first, min(high, first + self.slab)) for first in range(low, high, self.slab)]
            yield slabs[0] if len(slabs) == 1 else vstack(slabs, format="csr")

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Whole rows, evenly spread, see :class:`~scfm.cells.source.Matrix`."""
        wanted = max(16, n // max(1, self.shape[1]))
        picked = np.unique(np.linspace(0, self.shape[0] - 1, min(wanted, STRETCHES, self.shape[0])).astype(np.int64))
        rows = [self._rows(row, row + 1).data for row in picked.tolist()]
        return np.concatenate(rows), np.repeat(picked, [len(values) for values in rows])

    def close(self) -> None:
        """Nothing to remove."""


def spread(dataset: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``n`` entries of a one-dimensional dataset in evenly spread stretches, and their positions."""
    length = int(dataset.shape[0])
    if length <= n:
        return dataset[:], np.arange(length)
    width = n // STRETCHES
    starts = np.linspace(0, length - width, STRETCHES).astype(np.int64)
    values = np.concatenate([dataset[start : start + width] for start in starts.tolist()])
    return values, (starts[:, None] + np.arange(width)).ravel()
