"""Turning entries that come in any order into rows, in bounded memory.

Used where a file lies gene after gene (CSC) or in no order (Matrix Market): entries are appended to one temporary file
per range of rows, and each range is then small enough to be sorted in memory. Needs temporary disk of 12 to 16 bytes
per stored value (``TMPDIR`` says where) as soon as the matrix is larger than one range.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numba
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, vstack

#: Stored values of one range of rows: 4 M, or 64 MB on disk and about 150 MB while it is sorted.
RANGE = 4_000_000

#: (rows, columns, values) of some entries.
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


class RowRanges:
    """A matrix by ranges of rows, made from a stream of entries. A :class:`~scfm.cells.source.Matrix`.

    Args:
        shape: (cells, genes).
        n_entries: how many entries will come, for the size of the ranges.
        entries: pieces of the stream, each of bounded size; read once, now.
        dtype: of the values.
        limit: entries of one range of rows, on average.
    """

    def __init__(
        self, shape: tuple[int, int], n_entries: int, entries: Iterable[Entries], dtype: np.dtype, limit: int = RANGE
    ) -> None:
        self.shape = shape
        self.record = np.dtype([("row", np.int32), ("column", np.int32), ("value", dtype)])
        n_ranges = min(max(1, -(-n_entries // limit)), max(1, shape[0]), 1 << 16)
        self.rows = -(-shape[0] // n_ranges)
        self._memory: list[np.ndarray] | None = [] if n_ranges == 1 else None
        self._folder = None if n_ranges == 1 else tempfile.TemporaryDirectory(prefix="scfm-")
        for piece in entries:
            self._append(*piece)

    def _append(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        records = np.empty(len(rows), dtype=self.record)
        records["row"], records["column"], records["value"] = rows, columns, values
        if self._memory is not None:
            self._memory.append(records)
            return
        ranges = (rows // self.rows).astype(np.uint16)  # numpy sorts 16 bits by counting, five times faster
        records = records[np.argsort(ranges, kind="stable")]
        sizes = np.bincount(ranges)
        stops = np.cumsum(sizes)
        for number in np.flatnonzero(sizes).tolist():
            with self._file(number).open("ab") as file:
                records[stops[number - 1] if number else 0 : stops[number]].tofile(file)

    def _file(self, number: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{number}.bin"

    def _range(self, number: int) -> csr_matrix:
        """(rows of the range, G), columns ascending in each row."""
        if self._memory is not None:
            records = np.concatenate(self._memory) if self._memory else np.empty(0, dtype=self.record)
        elif self._file(number).exists():
            records = np.fromfile(self._file(number), dtype=self.record)
        else:
            records = np.empty(0, dtype=self.record)
        first = number * self.rows
        shape = (min(self.rows, self.shape[0] - first), self.shape[1])
        places = (records["row"] - first, records["column"])
        matrix = coo_matrix((records["value"], places), shape=shape).tocsr()
        if matrix.nnz < len(records):  # some were added up: repeat in a type wide enough for the sums
            wide = np.float64 if matrix.dtype.kind == "f" else np.int64
            matrix = coo_matrix((records["value"].astype(wide), places), shape=shape).tocsr()
        matrix.sort_indices()
        return matrix

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Blocks of rows, see :class:`~scfm.cells.source.Matrix`."""
        number, current = -1, None
        for low in range(start, stop, size):
            high = min(stop, low + size)
            parts = []
            for wanted in range(low // self.rows, (high - 1) // self.rows + 1):
                if wanted != number:
                    number, current = wanted, self._range(wanted)
                assert current is not None
                first = number * self.rows
                parts.append(current[max(low - first, 0) : high - first])
            yield parts[0] if len(parts) == 1 else vstack(parts, format="csr")

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values from every range of rows, see :class:`~scfm.cells.source.Matrix`."""
        if self._memory is not None:
            pieces = [np.concatenate(self._memory)] if self._memory else []
        else:
            assert self._folder is not None
            files = sorted(Path(self._folder.name).iterdir())
            pieces = [np.memmap(file, dtype=self.record, mode="r") for file in files]
        step = max(1, sum(len(piece) for piece in pieces) // n)
        picked = [np.array(piece[::step]) for piece in pieces] or [np.empty(0, dtype=self.record)]
        records = np.concatenate(picked)
        return records["value"], records["row"].astype(np.int64)

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()


def _all_ascending(indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Whether the columns of each row ascend: all descents from an entry to the next one are between rows."""
    starts = np.unique(indptr)
    starts = starts[(starts > 0) & (starts < indices.size)]
    descents = np.count_nonzero(indices[1:] <= indices[:-1])
    return bool(descents == np.count_nonzero(indices[starts] <= indices[starts - 1]))


@numba.njit(cache=True, nogil=True)
def _has_repeats(indptr: np.ndarray, indices: np.ndarray, seen: np.ndarray) -> bool:
    """Whether a column occurs twice in a row; ``seen`` is -1 for each column."""
    for row in range(indptr.size - 1):
        for k in range(indptr[row], indptr[row + 1]):
            if seen[indices[k]] == row:
                return True
            seen[indices[k]] = row
    return False


def add_up_repeats(block: csr_matrix) -> csr_matrix:
    """The block itself, or one whose repeated entries are added up, in numbers wide enough for their sums.

    Args:
        block: (B, G), column numbers within G.
    """
    indptr, indices = block.indptr, block.indices
    if _all_ascending(indptr, indices) or not _has_repeats(indptr, indices, np.full(block.shape[1], -1)):
        return block
    wide = block.astype(np.float64 if block.dtype.kind == "f" else np.int64)
    wide.sum_duplicates()
    return wide
