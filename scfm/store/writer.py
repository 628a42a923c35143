"""Writing one Arrow file of a store: record batches of a fixed number of cells, whatever blocks the cells came in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa

from scfm.io import move_into_place, part_path
from scfm.store.layout import VALUES, PartRecord
from scfm.types import FIELDS, Ragged, field_key

#: Cells of a record batch. Part of the format: it makes the bytes independent of the block size.
CELLS_PER_BATCH = 4096


@dataclass(frozen=True)
class Cells:
    """Tokenized cells with everything that is stored of them.

    Attributes:
        tokens: uint16 ids of each cell.
        names: (B,) the cells' names.
        file: (B,) int64, index of the file they came from.
        hashes: (B,) uint64, see :mod:`scfm.store.cell_hash`.
        obs: {column: (B,)}, int64 category codes or float32.
        counts: values beside the tokens, float32; None where they are not kept.
        fields: second modalities by kind: float32 values of the proteins, NaN where not measured, or int32 numbers of
            the open peaks; an empty row is a cell without the modality.
    """

    tokens: Ragged
    names: np.ndarray
    file: np.ndarray
    hashes: np.ndarray
    obs: Mapping[str, np.ndarray]
    counts: np.ndarray | None = None
    fields: Mapping[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> "Cells":
        """Consecutive cells, as views."""
        low, high, _ = rows.indices(len(self))
        offsets = self.tokens.offsets[low : high + 1]
        tokens = _stretch(self.tokens, low, high)
        counts = None if self.counts is None else self.counts[offsets[0] : offsets[-1]]
        obs = {name: values[rows] for name, values in self.obs.items()}
        fields = {kind: _stretch(values, low, high) for kind, values in self.fields.items()}
        return Cells(tokens, self.names[rows], self.file[rows], self.hashes[rows], obs, counts, fields)

    @staticmethod
    def concatenate(pieces: Sequence["Cells"]) -> "Cells":
        """Join several groups of cells."""
        if len(pieces) == 1:
            return pieces[0]
        tokens = join_ragged([piece.tokens for piece in pieces])
        kept = [piece.counts for piece in pieces if piece.counts is not None]
        return Cells(
            tokens,
            np.concatenate([piece.names for piece in pieces]),
            np.concatenate([piece.file for piece in pieces]),
            np.concatenate([piece.hashes for piece in pieces]),
            {name: np.concatenate([piece.obs[name] for piece in pieces]) for name in pieces[0].obs},
            np.concatenate(kept) if kept else None,
            {kind: join_ragged([piece.fields[kind] for piece in pieces]) for kind in pieces[0].fields},
        )

    @classmethod
    def from_table(cls, table: pa.Table, columns: Sequence[str]) -> "Cells":
        """The cells of an Arrow table that :meth:`batch` wrote."""
        batch = table.combine_chunks()
        tokens = _read_lists(batch["input_ids"])
        kinds = [kind for kind in FIELDS if field_key(kind) in batch.column_names]
        counts = batch["counts"].combine_chunks().flatten().to_numpy() if "counts" in batch.column_names else None
        return cls(
            tokens,
            batch["cell"].to_numpy(),
            batch["file"].to_numpy(),
            batch["hash"].to_numpy(),
            {name: batch[name].to_numpy() for name in columns},
            counts,
            {kind: _read_lists(batch[field_key(kind)]) for kind in kinds},
        )

    def batch(self) -> pa.RecordBatch:
        """Make an Arrow record batch, in the column order of the format."""
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
        for kind, ragged in self.fields.items():
            starts = pa.array(ragged.offsets - ragged.offsets[0], pa.int32())
            columns[field_key(kind)] = pa.ListArray.from_arrays(starts, pa.array(ragged.values, VALUES[kind]))
        for name, values in self.obs.items():
            columns[name] = pa.array(values, pa.float32() if values.dtype.kind == "f" else pa.int64())
        return pa.RecordBatch.from_pydict(columns)


def _stretch(ragged: Ragged, low: int, high: int) -> Ragged:
    """Rows ``low`` to ``high`` (exclusive), as views."""
    offsets = ragged.offsets[low : high + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def join_ragged(pieces: Sequence[Ragged]) -> Ragged:
    """Several groups of rows, one after the other."""
    ends = np.cumsum([0, *(len(piece.values) for piece in pieces)])
    offsets = [piece.offsets[1:] + end for piece, end in zip(pieces, ends, strict=False)]
    return Ragged(np.concatenate([piece.values for piece in pieces]), np.concatenate([[0], *offsets]))


def _read_lists(column: pa.ChunkedArray) -> Ragged:
    """A column of lists as it was written."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(lists.flatten().to_numpy(), offsets - offsets[:1].sum())


class _HashedFile:
    """A file whose bytes are hashed while they are written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sum, self.size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self.sum.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Do nothing: every write is passed on at once."""


class PartWriter:
    """Writes one part under a temporary name; :meth:`close` makes it durable and gives it its own.

    Args:
        path: the part's final place.
        scratch: a folder on the same disk for the unfinished file.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._unfinished = part_path(path, scratch)
        self._file = open(self._unfinished, "wb")  # noqa: SIM115
        self._sink = _HashedFile(self._file)
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._pieces: list[Cells] = []
        self._waiting = self._cells = self._tokens = 0
        self._largest = -1

    def write(self, cells: Cells) -> None:
        """Add cells."""
        if len(cells.tokens.values):
            self._largest = max(self._largest, int(cells.tokens.values.max()))
        self._pieces.append(cells)
        self._waiting += len(cells)
        while self._waiting >= CELLS_PER_BATCH:
            self._flush(CELLS_PER_BATCH)

    def close(self) -> PartRecord:
        """Finish the part: flush it to the disk, rename it, and return its record."""
        if self._waiting:
            self._flush(self._waiting)
        if self._stream is not None:
            self._stream.close()
        self._file.close()
        move_into_place(self._unfinished, self.path)
        return PartRecord(
            self.path.name, self._cells, self._tokens, self._largest, self._sink.size, self._sink.sum.hexdigest()
        )

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _flush(self, n_cells: int) -> None:
        """Write one record batch of the first ``n_cells`` waiting cells.

        Its arrays are copies: a slice would keep the buffers of its parent, which changes the bytes of the file.
        """
        cells = Cells.concatenate(self._pieces)
        head, self._pieces = cells[:n_cells], [cells[n_cells:]]
        self._waiting -= n_cells
        batch = head.batch()
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._sink, batch.schema)
        self._stream.write_batch(batch)
        self._cells += len(head)
        self._tokens += len(head.tokens.values)
