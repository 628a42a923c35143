"""The token store: cells as ranked token ids, read in place from memory maps."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scfm.store.arrow import checked_text, data_files, read_table, token_chunks
from scfm.store.fields import Field, FieldColumn, pad_field
from scfm.store.gather import Gatherer, TokenOutside
from scfm.store.layout import META, read_meta
from scfm.store.published import published_meta
from scfm.types import Ragged, field_key
from scfm.vocab import Vocab

#: A published dataset has no record of its largest id: up to this many tokens are checked when it opens.
SCANNED_TOKENS = 1 << 28


class TokenStore:
    """Tokenized cells on disk: a directory that ``datasets.load_from_disk`` opens too.

    Rows are read from memory maps with one compiled copy; only the rows that are asked for are loaded. A
    store can be pickled: a loader worker that gets it opens it again.

    Args:
        path: the directory.
        table: its rows.
        meta: ``scfm.json``, or what stands for it in a published dataset.

    Attributes:
        path: the directory.
        tokenizer: ``Tokenizer.to_dict()`` of the tokenizer that wrote the cells.
        vocab: its vocabulary.
        columns: the obs columns that :meth:`obs` can read, besides ``file``.
        group: the obs column whose cells should stay together in a split, or None.
        fingerprint: names the cells of the store; empty for a published dataset.
        files: the input files, each with its report.
        report: the corpus's report.
        fields: features of the second modalities that it keeps, by kind: ``protein``, ``peaks``.
    """

    def __init__(self, path: Path, table: pa.Table, meta: Mapping[str, Any]) -> None:
        self.path, self._table, self._meta = path, table, meta
        self.tokenizer: dict[str, Any] = dict(meta["tokenizer"])
        self.vocab = Vocab.from_dict(self.tokenizer["vocab"])
        self.columns: tuple[str, ...] = tuple(meta["columns"])
        self.group: str | None = meta["group"]
        self.fingerprint: str = meta["fingerprint"]
        self.report: dict[str, Any] = dict(meta.get("report", {}))
        self.files: list[dict[str, Any]] = list(meta["files"])
        self.fields = {kind: Field.from_dict(state) for kind, state in meta.get("fields", {}).items()}
        self._chunks = token_chunks(table["input_ids"], str(path))
        self._gather = Gatherer(self._chunks)

    @classmethod
    def open(cls, path: str | Path, tokenizer: Mapping[str, Any] | None = None) -> "TokenStore":
        """Open a store, or a published dataset of token ids.

        Args:
            path: the directory.
            tokenizer: ``Tokenizer.to_dict()``, which gives a published dataset (no ``scfm.json``) its vocabulary.

        Raises:
            FileNotFoundError: no such directory, a missing part, or no ``scfm.json`` and no ``tokenizer``.
            ValueError: a damaged file, a newer format, another vocabulary than ``tokenizer`` or than its own record,
                no cells, or ids outside the vocabulary.
        """
        path = Path(path)
        table = read_table(data_files(path))
        if "input_ids" not in table.column_names or not len(table):
            raise ValueError(f"{path} holds no cells (columns: {', '.join(table.column_names) or 'none'})")
        if (path / META).exists():
            store = cls(path, table, read_meta(path))
            store._check_record(tokenizer)
        elif tokenizer is not None:
            store = cls(path, table, published_meta(path, table, tokenizer))
            store._check_ids()
        else:
            raise FileNotFoundError(
                f"{path} has no {META}, so its vocabulary is unknown; if it is a published dataset, name the tokenizer "
                "that wrote it"
            )
        return store

    def __len__(self) -> int:
        return self._gather.n_cells

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}, {len(self)} cells, {len(self.vocab)} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.path, self.tokenizer)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int64, tokens of each cell.

        Raises:
            ValueError: the column ``length`` contradicts the token lists.
        """
        lengths = np.concatenate([np.diff(chunk.offsets) for chunk in self._chunks]).astype(np.int64)
        if "length" in self._table.column_names:
            stored = self._table["length"]
            if not pa.types.is_integer(stored.type):
                raise ValueError(
                    f"{self.path}: the column length is {stored.type}, expected integers: prepare it again"
                )
            wrong = np.flatnonzero(stored.to_numpy() != lengths)
            if wrong.size:
                row = int(wrong[0])
                raise ValueError(
                    f"{self.path}: cell {self._describe_row(row)} has {lengths[row]} tokens but its length says "
                    f"{self._table['length'][row]}; the store is damaged: prepare it again"
                )
        return lengths

    def gather(self, rows: np.ndarray, max_length: int | None = None, dtype: type[np.integer] = np.uint16) -> Ragged:
        """The tokens of some cells, in the order of ``rows``.

        Args:
            rows: (B,) integers.
            max_length: keep only so many tokens of each cell, the most expressed; the closing special token (eos)
                stays last, as if the tokenizer had cut there.
            dtype: of the values; batches take int64 at once.

        Returns:
            values and int64 offsets, freshly allocated.

        Raises:
            IndexError: a row outside the store.
            ValueError: an id outside the vocabulary, naming the cell.
        """
        try:
            tail = self.vocab.specials.get("eos", -1)
            return self._gather(np.asarray(rows), limit=len(self.vocab), longest=max_length, tail=tail, dtype=dtype)
        except TokenOutside as error:
            raise ValueError(
                f"{self.path}: cell {self._describe_row(error.row)} holds an id outside its vocabulary of "
                f"{len(self.vocab)} tokens; the dataset was written with another tokenizer, or is damaged"
            ) from None

    @property
    def has_counts(self) -> bool:
        """Whether it was prepared with ``keep_counts=true``."""
        return "counts" in self._table.column_names

    def counts(self, rows: np.ndarray, max_length: int | None = None) -> np.ndarray:
        """(T,) float32: the counts behind each token that :meth:`gather` gives for the same arguments, 0 at specials.

        Raises:
            ValueError: the store keeps none.
        """
        if not self.has_counts:
            raise ValueError(
                f"the store {self.path} keeps ranks only, no counts: prepare it again with keep_counts=true"
            )
        return self._gather_counts(
            np.asarray(rows), limit=float("inf"), longest=max_length, tail=0.0, dtype=np.float32
        ).values

    @cached_property
    def _gather_counts(self) -> Gatherer:
        chunks = token_chunks(self._table["counts"], str(self.path), ("float", "float32"))
        lengths = np.concatenate([np.diff(chunk.offsets) for chunk in chunks])
        if not np.array_equal(lengths, self.lengths):
            raise ValueError(f"{self.path} has other numbers of counts than of tokens; it is damaged: prepare it again")
        return Gatherer(chunks)

    def field(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """The second modality of some cells, in the order of ``rows`` (B,).

        Args:
            kind: ``protein`` or ``peaks``.
            rows: (B,) integers.

        Returns:
            Proteins (B, P) float32, NaN where not measured, in the order of ``fields["protein"].names``; peaks (B, K)
            int64, numbers of the open ones among ``fields["peaks"].names``, -1 after the last.

        Raises:
            ValueError: the store keeps none, or names fewer features than it holds.
        """
        if kind not in self.fields:
            raise ValueError(
                f"the store {self.path} keeps no {kind}: prepare it again with side.{kind}=auto from files that have it"
            )
        return pad_field(kind, self._field_columns[kind].read(rows), len(self.fields[kind].names))

    @cached_property
    def _field_columns(self) -> dict[str, FieldColumn]:
        return {
            kind: FieldColumn(self._table[field_key(kind)], kind, len(field.names), str(self.path))
            for kind, field in self.fields.items()
        }

    @property
    def shuffled(self) -> bool:
        """Whether its cells were written in an order shuffled over the whole corpus."""
        return self._meta.get("shuffled") is not None

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as it lies in the files."""
        return self._table[name]

    def obs(self, column: str) -> np.ndarray:
        """(n,) one obs column: int64 category codes (-1 = missing) or float32 values (NaN = missing).

        Raises:
            ValueError: the store has no such column, or codes without a name.
        """
        self._require_column(column)
        array, names = self._table[column], self.categories(column)
        if names is None:
            if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
                raise ValueError(f"{self.path}: the obs column {column!r} is {array.type}; expected numbers")
            return pc.cast(array, pa.float32(), safe=False).to_numpy()
        if pa.types.is_integer(array.type):
            codes = pc.fill_null(pc.cast(array, pa.int64()), -1).to_numpy().astype(np.int64, copy=False)
            if len(codes) and not -1 <= codes.min() <= codes.max() < len(names):
                raise ValueError(
                    f"{self.path}: the obs column {column!r} has codes from {codes.min()} to {codes.max()} for "
                    f"{len(names)} names; the store is damaged: prepare it again"
                )
            return codes
        text = pc.cast(checked_text(array, f"{self.path}: {column}"), pa.string())
        return pc.fill_null(pc.index_in(text, pa.array(names, pa.string())), -1).to_numpy().astype(np.int64)

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Names of an obs column's categories, by code; None for a column of numbers.

        Raises:
            ValueError: the store has no such column.
        """
        self._require_column(column)
        if column == "file" and self.files:
            return tuple(file["name"] for file in self.files)
        names = self._meta["columns"].get(column)
        return None if names is None else tuple(names)

    def names(self, rows: np.ndarray) -> list[str]:
        """Names of some cells; their row numbers where a published dataset has none."""
        rows = np.asarray(rows, dtype=np.int64)
        if "cell" not in self._table.column_names:
            return [str(row) for row in rows]
        return self._names.take(pa.array(rows)).to_pylist()

    @cached_property
    def _names(self) -> pa.ChunkedArray:
        return checked_text(self._table["cell"], f"{self.path}: cell")

    @property
    def hashes(self) -> np.ndarray:
        """(n,) uint64, a hash of each cell's counts (:mod:`scfm.store.cell_hash`).

        Raises:
            ValueError: a published dataset, which has none.
        """
        if "hash" not in self._table.column_names:
            raise ValueError(
                f"{self.path} has no column hash: its cells cannot be compared with others by their counts"
            )
        hashes = self._table["hash"]
        if hashes.type != pa.uint64() or hashes.null_count:
            raise ValueError(f"{self.path}: the column hash is {hashes.type}, expected uint64; prepare the cells again")
        return hashes.to_numpy()

    def overlap(self, hashes: np.ndarray) -> np.ndarray:
        """(B,) bool: which of some cells, given by the hash of their counts, are in this store."""
        return np.isin(np.asarray(hashes, dtype=np.uint64), self.hashes)

    def _require_column(self, column: str) -> None:
        if column not in self.columns and not (column == "file" and self.files):
            have = ", ".join(self.columns) or "none"
            raise ValueError(f"{self.path} has no obs column {column!r}; it has {have} (scfm-prepare obs='[...]')")

    def _describe_row(self, row: int) -> str:
        name = self.names(np.array([row]))[0]
        return f"{row} ({name})" if "cell" in self._table.column_names else str(row)

    def _check_record(self, tokenizer: Mapping[str, Any] | None) -> None:
        """Compare the rows and the vocabulary with ``scfm.json``."""
        meta, mine = self._meta, f"the store {self.path}"
        if len(self) != meta["n_cells"]:
            raise ValueError(
                f"{self.path} has {len(self)} cells but {META} says {meta['n_cells']}: a part is missing or foreign"
            )
        needed = {*self.columns, *(["file"] if self.files else []), *map(field_key, self.fields)}
        lacking = sorted(needed.difference(self._table.column_names))
        if lacking:
            raise ValueError(f"{self.path} lacks the columns {', '.join(lacking)} of {META}: prepare the cells again")
        if self.vocab.hash != meta["vocab_hash"]:
            raise ValueError(
                f"{self.path / META} names vocabulary {meta['vocab_hash'][:12]} but carries {self.vocab.hash[:12]}; "
                "it was changed by hand or is damaged: prepare the cells again"
            )
        if meta["largest"] >= len(self.vocab):
            raise ValueError(
                f"{self.path} holds the id {meta['largest']}, outside its vocabulary of {len(self.vocab)} tokens: "
                "prepare the cells again"
            )
        if tokenizer is not None:
            self.vocab.require_same(Vocab.from_dict(tokenizer["vocab"]), mine, "the tokenizer it is opened with")

    def _check_ids(self) -> None:
        """Check the ids of a published dataset, unless it is very large; :meth:`gather` always checks them."""
        total = 0
        for chunk, first in zip(
            self._chunks, np.cumsum([0, *(len(c.offsets) - 1 for c in self._chunks)]), strict=False
        ):
            values = chunk.values[chunk.offsets[0] : chunk.offsets[-1]]
            total += values.size
            if total > SCANNED_TOKENS:
                return
            if values.size and not 0 <= values.min() <= values.max() < len(self.vocab):
                self.gather(np.arange(first, first + len(chunk.offsets) - 1))
