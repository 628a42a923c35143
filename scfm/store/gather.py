"""One compiled copy of many cells out of many memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from scfm.store.arrow import Chunk
from scfm.types import Ragged

_UNLIMITED = int(np.iinfo(np.int64).max)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer, which ``numba.carray`` turns into an array."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        """The LLVM instruction."""
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return numba.types.voidptr(numba.types.int64), codegen


@numba.njit(cache=True, nogil=True)
def _locate(
    rows: np.ndarray,
    first: np.ndarray,
    offset_addresses: np.ndarray,
    offset_type: np.ndarray,
    longest: int,
    chunks: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    where: np.ndarray,
) -> int:
    """Find chunk, first value, length and destination of every row; return the first missing row, or -1."""
    where[0] = 0
    for i in range(rows.size):
        if not 0 <= rows[i] < first[-1]:
            return i
        chunk = np.searchsorted(first, rows[i], side="right") - 1
        cells = first[chunk + 1] - first[chunk]
        offsets = numba.carray(_pointer(offset_addresses[chunk]), (cells + 1,), offset_type.dtype)  # type: ignore[call-arg]
        local = rows[i] - first[chunk]
        chunks[i], starts[i] = chunk, offsets[local]
        lengths[i] = offsets[local + 1] - offsets[local]
        where[i + 1] = where[i] + min(lengths[i], longest)
    return -1


@numba.njit(cache=True, nogil=True)
def _copy(
    value_addresses: np.ndarray,
    value_type: np.ndarray,
    chunks: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    where: np.ndarray,
    lowest: float,
    limit: float,
    tail: float,
    out: np.ndarray,
) -> int:
    """Copy every row; return the first row with a value outside [lowest, limit), or -1."""
    for i in range(chunks.size):
        address = value_addresses[chunks[i]] + starts[i] * value_type.itemsize
        source = numba.carray(_pointer(address), (lengths[i],), value_type.dtype)  # type: ignore[call-arg]
        row = out[where[i] : where[i + 1]]
        outside = False
        for k in range(row.size):
            row[k] = source[k]
            outside |= (source[k] < lowest) | (source[k] >= limit)
        if outside:
            return i
        if row.size and row.size < lengths[i] and source[lengths[i] - 1] == tail:
            row[row.size - 1] = tail
    return -1


@numba.njit(cache=True, nogil=True)
def _count(offsets: np.ndarray, out: np.ndarray) -> tuple[int, int]:
    """Write 0, 1, 2, ... to each cell of ``out``; return the shortest and the longest length."""
    shortest, longest = out.size, 0
    for i in range(offsets.size - 1):
        row = out[offsets[i] : offsets[i + 1]]
        shortest, longest = min(shortest, row.size), max(longest, row.size)
        for k in range(row.size):
            row[k] = k
    return shortest, longest


def ranks(offsets: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The place of every token in its cell, and the extent of the cells.

    Args:
        offsets: (B+1,) int64, where each cell begins, and T.

    Returns:
        (T,) int64, which counts 0, 1, 2, ... in each cell; the length of the shortest and of the longest cell.
    """
    out = np.empty(offsets[-1], dtype=np.int64)
    return out, *_count(offsets, out)


class Gatherer:
    """Copies chosen cells out of the chunks of a store.

    Attributes:
        n_cells: cells in all chunks.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = tuple(chunks)  # holds the memory maps that the addresses point into
        sizes = [len(chunk.offsets) - 1 for chunk in chunks]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._values = np.array([chunk.values.ctypes.data for chunk in chunks], dtype=np.int64)
        self._offsets = np.array([chunk.offsets.ctypes.data for chunk in chunks], dtype=np.int64)
        self._value_type = np.zeros(1, chunks[0].values.dtype if chunks else np.uint16)
        self._offset_type = np.zeros(1, chunks[0].offsets.dtype if chunks else np.int32)
        self.n_cells = int(self._first[-1])

    def __call__(
        self,
        rows: np.ndarray,
        *,
        limit: float,
        lowest: float = 0,
        longest: int | None = None,
        tail: float = -1,
        dtype: type[np.number] = np.uint16,
    ) -> Ragged:
        """The cells of ``rows``, in that order.

        Args:
            rows: (B,) int64.
            limit: ids must be below it.
            lowest: the smallest value allowed; NaN is allowed in any case.
            longest: tokens kept of each cell; None keeps all.
            tail: the closing special token; a cropped cell that ended with it keeps it as its last token.
            dtype: of the copy.

        Raises:
            IndexError: a row that does not exist.
            TokenOutside: a value outside [lowest, limit).
        """
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        chunks, starts, lengths = np.empty((3, rows.size), dtype=np.int64)
        where = np.empty(rows.size + 1, dtype=np.int64)
        most = _UNLIMITED if longest is None else longest
        wrong = _locate(rows, self._first, self._offsets, self._offset_type, most, chunks, starts, lengths, where)
        if wrong >= 0:
            raise IndexError(f"row {rows[wrong]} was asked for; there are {self.n_cells} cells")
        out = np.empty(where[-1], dtype=dtype)
        bad = _copy(self._values, self._value_type, chunks, starts, lengths, where, lowest, limit, tail, out)
        if bad >= 0:
            raise TokenOutside(int(rows[bad]))
        return Ragged(out, where)


class TokenOutside(ValueError):  # noqa: N818
    """A cell holds an id outside the vocabulary.

    Attributes:
        row: the cell.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"cell {row} holds an id outside the vocabulary")
        self.row = row
