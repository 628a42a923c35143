"""Writing one Arrow file of a store: record batches of a fixed number of cells, whatever blocks the cells came in."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa

from scfm.data.layout import PartRecord
from scfm.types import Ragged

#: Cells of a record batch. Part of the format: it makes the bytes independent of the block size.
CELLS_PER_BATCH = 4096


@dataclass(frozen=True)
class Cells:
    """Tokenised cells with everything that is stored of them.

    Attributes:
        tokens: uint16 ids of each cell.
        names: (B,) the cells' names.
        file: (B,) int64, index of the file they came from.
        hashes: (B,) uint64, see :mod:`scfm.data.fingerprint`.
        obs: {column: (B,)}, int64 category codes or float32.
        counts: values beside the tokens, float32; None where they are not kept.
    """

    tokens: Ragged
    names: np.ndarray
    file: np.ndarray
    hashes: np.ndarray
    obs: Mapping[str, np.ndarray]
    counts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def table(self) -> pa.Table:
        """The same as an Arrow table, in the column order of the format."""
        offsets = pa.array(self.tokens.offsets - self.tokens.offsets[0], pa.int32())
        columns: dict[str, pa.Array] = {
            "input_ids": pa.ListArray.from_arrays(offsets, pa.array(self.tokens.values, pa.uint16())),
            "length": pa.array(self.tokens.lengths, pa.int64()),
            "cell": pa.array(np.asarray(self.names, dtype=object), pa.string()),
            "file": pa.array(self.file, pa.int64()),
            "hash": pa.array(self.hashes, pa.uint64()),
        }
        if self.counts is not None:
            columns["counts"] = pa.ListArray.from_arrays(offsets, pa.array(self.counts, pa.float32()))
        for name, values in self.obs.items():
            columns[name] = pa.array(values, pa.float32() if values.dtype.kind == "f" else pa.int64())
        return pa.table(columns)


class _Hashed:
    """A file that sums what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sum, self.size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: bytes) -> int:
        """Write and sum."""
        self.sum.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Nothing waits here."""


class PartWriter:
    """Writes one part under a temporary name; :meth:`close` makes it durable and gives it its own.

    Args:
        path: the part's final place.
        scratch: a folder on the same disk for the unfinished file.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        scratch.mkdir(parents=True, exist_ok=True)
        self._temporary = scratch / f"{path.name}.{os.getpid()}"
        self._file = open(self._temporary, "wb")  # noqa: SIM115
        self._sink = _Hashed(self._file)
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._waiting: list[pa.Table] = []
        self._n_waiting = self._cells = self._tokens = 0
        self._largest = -1

    def write(self, cells: Cells) -> None:
        """Add cells."""
        self.write_table(cells.table())

    def write_table(self, table: pa.Table) -> None:
        """Add cells that are an Arrow table already."""
        self._waiting.append(table)
        self._n_waiting += len(table)
        while self._n_waiting >= CELLS_PER_BATCH:
            self._flush(CELLS_PER_BATCH)

    def close(self) -> PartRecord:
        """Finish the part: flush to the disk, rename, and say what was written."""
        if self._n_waiting:
            self._flush(self._n_waiting)
        if self._stream is not None:
            self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        return PartRecord(
            self.path.name, self._cells, self._tokens, self._largest, self._sink.size, self._sink.sum.hexdigest()
        )

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _flush(self, n_cells: int) -> None:
        """Write one record batch of the first ``n_cells`` waiting cells."""
        table = pa.concat_tables(self._waiting)
        rest = table.slice(n_cells)
        head = table.take(pa.array(np.arange(n_cells))).combine_chunks()  # fresh buffers: a slice would bring its past
        self._waiting, self._n_waiting = ([rest] if len(rest) else []), len(rest)
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._sink, head.schema)
        for batch in head.to_batches():
            self._stream.write_batch(batch)
        tokens = head["input_ids"].combine_chunks().flatten()
        self._cells += len(head)
        self._tokens += len(tokens)
        self._largest = max(self._largest, int(tokens.to_numpy().max(initial=0)) if len(tokens) else -1)
