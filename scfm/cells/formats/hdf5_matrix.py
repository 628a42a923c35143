"""Matrices as AnnData lays them out in HDF5 and zarr: compressed by rows, by columns, or dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from scfm.cells.formats.hdf5_limits import require_size, require_small_chunks
from scfm.cells.formats.inflate import Slices
from scfm.cells.formats.row_sorter import Entries, RowRanges, add_up_repeats
from scfm.cells.source import Matrix

#: Where a sample is drawn from: this many stretches, spread evenly.
STRETCHES = 64

#: Stored values read at once while a matrix is turned from columns into rows (16 to 24 bytes each).
PIECE = 2_000_000

#: A row of more values than this many times its places is no row of counts.
MAX_REPEATS = 4

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
        return DenseMatrix(element)
    encoding = element.attrs.get("encoding-type") or element.attrs.get("h5sparse_format", "")
    if encoding in ("csr", "csr_matrix"):
        return CsrMatrix(element, _shape(element))
    if encoding in ("csc", "csc_matrix"):
        return CscMatrix(element, _shape(element))
    raise ValueError(
        f"its {element.name} is encoded as {encoding or 'nothing known'!r}, expected a CSR, CSC or dense matrix"
    )


def _shape(element: Any) -> tuple[int, int]:
    shape = np.asarray(element.attrs.get("shape", element.attrs.get("h5sparse_shape", ())))
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise ValueError(f"its {element.name} is damaged: its shape is {shape.tolist()}, expected cells x genes")
    return int(shape[0]), int(shape[1])


def read_pointers(group: Any, n: int, n_columns: int) -> np.ndarray:
    """``indptr`` of ``n`` compressed rows or columns, (n + 1,) int64.

    Raises:
        ValueError: ``data``, ``indices``, ``indptr``, ``n`` and ``n_columns`` do not fit together, or are of a kind
            that compiled code must not be given.
    """
    for part, kinds in (("data", "iufb"), ("indices", "iu"), ("indptr", "iu")):
        if part not in group:
            raise ValueError(f"its {group.name} is damaged: it has no {part}")
        array = group[part]
        if getattr(array, "ndim", 0) != 1 or array.dtype.kind not in kinds:
            kind = getattr(array, "dtype", type(array).__name__)
            expected = "integers" if kinds == "iu" else "numbers"
            raise ValueError(f"its {group.name} is damaged: {part} holds {kind}, expected a list of {expected}")
        require_small_chunks(array)
    require_chunks(group["data"])
    stored, n_pointers = group["data"].shape[0], group["indptr"].shape[0]
    pointers = np.asarray(group["indptr"][:] if n_pointers == n + 1 else (), dtype=np.int64)
    whole = len(pointers) == n + 1 and pointers[0] == 0 and pointers[-1] == stored == group["indices"].shape[0]
    if not whole or (np.diff(pointers) < 0).any():
        raise ValueError(
            f"its {group.name} is damaged: indptr has {n_pointers} entries, expected {n + 1}, ending at "
            f"{pointers[-1] if len(pointers) else 'nothing'}, with {stored} values and "
            f"{group['indices'].shape[0]} indices"
        )
    longest = int(np.diff(pointers).max(initial=0))
    if longest > max(MAX_REPEATS * n_columns, PIECE):
        raise ValueError(
            f"its {group.name} is damaged: {longest:,} values lie in one row or column of {n_columns:,} places"
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


class CsrMatrix:
    """A matrix compressed by rows (CSR). Memory: 8 bytes per row, and one block.

    Args:
        group: has ``data``, ``indices``, ``indptr``; numbers of the columns in ``indices``.
        shape: (cells, genes).
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.group = group
        self.shape = shape
        require_size(*shape, group.name)
        self.pointers = read_pointers(group, *shape)

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
        if len(columns) > np.iinfo(np.int32).max:
            raise ValueError(
                f"its {self.group.name} has {len(columns):,} values in one block: take a smaller block_size"
            )
        values = widen(values)
        block = csr_matrix((len(pointers) - 1, self.shape[1]), dtype=values.dtype)
        columns = columns.astype(np.int32, copy=False)
        block.data, block.indices, block.indptr = values, columns, (pointers - pointers[0]).astype(np.int32)
        return add_up_repeats(block)

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of evenly spread stretches, see :class:`~scfm.cells.source.Matrix`."""
        values, entries = sample_stretches(self.group["data"], n)
        return values, np.searchsorted(self.pointers, entries, side="right") - 1

    def close(self) -> None:
        """Nothing to remove."""


class CscMatrix:
    """A matrix compressed by columns (CSC): turned into rows once, out of core, when the first block is asked for.

    Memory: one piece of the columns and one range of rows, about 300 MB together whatever the file's size; see
    :mod:`scfm.cells.formats.row_sorter` for the temporary disk.
    """

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.group = group
        self.shape = shape
        require_size(*shape, group.name)
        self.pointers = read_pointers(group, shape[1], shape[0])
        self._rows: RowRanges | None = None

    def _entries(self) -> Iterator[Entries]:
        values, rows = Slices(self.group["data"]), Slices(self.group["indices"])
        for low in range(0, int(self.pointers[-1]), PIECE):
            high = min(low + PIECE, int(self.pointers[-1]))
            cells = rows(low, high)
            if cells.min() < 0 or cells.max() >= self.shape[0]:
                raise ValueError(f"its {self.group.name} is damaged: a row number is outside its {self.shape[0]} rows")
            yield cells, self._genes(low, high), widen(values(low, high))

    def _genes(self, low: int, high: int) -> np.ndarray:
        """The column of each stored value from ``low`` to ``high``."""
        first = int(np.searchsorted(self.pointers, low, side="right")) - 1
        last = int(np.searchsorted(self.pointers, high, side="left"))
        edges = np.clip(self.pointers[first : last + 1], low, high)
        return np.repeat(np.arange(first, last, dtype=np.int32), np.diff(edges))

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`."""
        if self._rows is None:
            dtype = native_dtype(self.group["data"].dtype)
            self._rows = RowRanges(self.shape, int(self.pointers[-1]), self._entries(), dtype)
        yield from self._rows.blocks(start, stop, size)

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of evenly spread stretches, see :class:`~scfm.cells.source.Matrix`."""
        values, entries = sample_stretches(self.group["data"], n)
        return values, np.asarray(sample_stretches(self.group["indices"], n)[0], dtype=np.int64)[: len(entries)]

    def close(self) -> None:
        """Remove the temporary files."""
        if self._rows is not None:
            self._rows.close()


class DenseMatrix:
    """A dense matrix, made sparse block by block.

    Args:
        array: two-dimensional, of h5py or zarr.
        transposed: genes x cells, as loom has it.
    """

    def __init__(self, array: Any, transposed: bool = False) -> None:
        if array.ndim != 2:
            raise ValueError(f"its {array.name} has {array.ndim} dimensions, expected cells x genes")
        if array.dtype.kind not in "iufb":
            raise ValueError(f"its {array.name} holds {array.dtype}, expected numbers")
        require_small_chunks(array)
        self.array = array
        self.transposed = transposed
        self.shape = (int(array.shape[transposed]), int(array.shape[not transposed]))
        require_size(*self.shape, array.name)

        chunk = array.chunks[int(transposed)] if array.chunks else 1
        fitting = SLAB // max(1, self.shape[1] * array.dtype.itemsize)
        self.slab = max(1, chunk, fitting // chunk * chunk)

    def _rows(self, low: int, high: int) -> csr_matrix:
        return csr_matrix(widen(self.array[:, low:high].T if self.transposed else self.array[low:high]))

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


def native_dtype(dtype: np.dtype) -> np.dtype:
    """The type in which values of another are held: of this machine's byte order, and known to scipy and numba.

    Half floats are float32, which has all of them; floats of more than 64 bits are float64.
    """
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


def widen(values: np.ndarray) -> np.ndarray:
    """Values in their :func:`native_dtype`, not copied where they have it."""
    return values.astype(native_dtype(values.dtype), copy=False)


def sample_stretches(dataset: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``n`` entries of a one-dimensional dataset in evenly spread stretches, and their positions."""
    length = int(dataset.shape[0])
    if length <= n:
        return dataset[:], np.arange(length)
    width = n // STRETCHES
    starts = np.linspace(0, length - width, STRETCHES).astype(np.int64)
    values = np.concatenate([dataset[start : start + width] for start in starts.tolist()])
    return values, (starts[:, None] + np.arange(width)).ravel()
