"""Second modalities of a store: their features, and their values as arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scfm.store.arrow import token_chunks
from scfm.store.gather import Gatherer, TokenOutside
from scfm.store.layout import VALUES
from scfm.types import PEAKS, PROTEIN, Ragged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """The features of a second modality.

    Attributes:
        names: of the features, in the order of their numbers.
        raw: whether the values are counts (peaks: open or not).
        genome: build that the peaks lie on; None for proteins, or where unknown.
    """

    names: tuple[str, ...]
    raw: bool = True
    genome: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``scfm.json``."""
        return asdict(self) | {"names": list(self.names)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Field:
        """What :meth:`to_dict` gave."""
        return cls(tuple(state["names"]), state["raw"], state.get("genome"))


def merge_fields(kind: str, parts: Iterable[tuple[str, Field]]) -> Field:
    """The features of several files or stores: those of the first, then those that others add.

    Args:
        kind: of the modality.
        parts: (file or store, its features), at least one.

    Raises:
        ValueError: counts in one and other values in another, or two genome builds.
    """
    (first, merged), *others = parts
    for where, other in others:
        if other.raw != merged.raw:
            raise ValueError(
                f"{kind} of {first} and {where} are not alike: counts in one, other values in the other; use files of "
                "one kind (side.raw)"
            )
        builds = list(dict.fromkeys(one for one in (merged.genome, other.genome) if one is not None))
        if len(builds) > 1:
            raise ValueError(
                f"{kind} of {first} and {where} lie on two genome builds ({', '.join(builds)}): lift one over, and "
                "prepare both again"
            )
        names = tuple(dict.fromkeys([*merged.names, *other.names]))
        merged = Field(names, merged.raw, builds[0] if builds else None)
    return merged


class FieldColumn:
    """The values of a second modality on disk.

    Args:
        column: lists of values, one of each cell.
        kind: of the modality.
        n_features: number of its features P.
        where: the store, for messages.
    """

    def __init__(self, column: pa.ChunkedArray, kind: str, n_features: int, where: str) -> None:
        self.kind, self.n_features, self.where = kind, n_features, where
        self._gather = Gatherer(token_chunks(column, f"{where}: {kind}", (_ARROW[kind],)))

    def read(self, rows: np.ndarray) -> Ragged:
        """The values of some cells, in the order of ``rows`` (B,); an empty row is a cell without the modality.

        Raises:
            ValueError: a feature that the store does not name.
        """
        protein = self.kind == PROTEIN
        limits = {"lowest": -np.inf, "limit": np.inf} if protein else {"limit": self.n_features}
        try:
            found = self._gather(np.asarray(rows), dtype=VALUE_TYPES[self.kind], **limits)
        except TokenOutside as error:
            raise ValueError(self._damage(error.row)) from None
        if protein and found.lengths.max(initial=0) > self.n_features:
            raise ValueError(self._damage(int(np.asarray(rows)[found.lengths.argmax()])))
        return found

    def _damage(self, row: int) -> str:
        return (
            f"{self.where}: cell {row} has {self.kind} outside of the {self.n_features:,} that scfm.json names; the "
            "store is damaged: prepare it again"
        )


def pad_field(kind: str, values: Ragged, n_features: int) -> np.ndarray:
    """Rows of equal length.

    Args:
        kind: of the modality.
        values: of B cells.
        n_features: number of its features P.

    Returns:
        Proteins (B, P) float32, NaN where not measured; peaks (B, K) int64 numbers of the open ones, -1 after the last.
    """
    width = n_features if kind == PROTEIN else int(values.lengths.max(initial=0))
    dtype, fill = (np.float32, np.nan) if kind == PROTEIN else (np.int64, -1)
    padded = np.full((len(values), width), fill, dtype=dtype)
    padded[np.arange(width) < values.lengths[:, None]] = values.values
    return padded


def renumber_column(column: pa.ChunkedArray, kind: str, numbers: np.ndarray, n_features: int) -> pa.ChunkedArray:
    """A column with other numbers of its features, in memory.

    Args:
        column: lists of values.
        kind: of the modality.
        numbers: (P,) the new number of each feature.
        n_features: number of features afterward.
    """
    if np.array_equal(numbers, np.arange(len(numbers))):
        return column
    reader = FieldColumn(column, kind, len(numbers), "the mix")
    values = reader.read(np.arange(len(column)))
    if kind == PEAKS:
        return _lists(Ragged(numbers[values.values].astype(np.int32), values.offsets), kind)
    present = values.lengths > 0
    wide = np.full((int(present.sum()), n_features), np.nan, dtype=np.float32)
    wide[:, numbers] = pad_field(kind, values, len(numbers))[present]
    return _lists(Ragged(wide.ravel(), np.concatenate([[0], np.cumsum(present * n_features)])), kind)


def empty_column(kind: str, n_cells: int) -> pa.ChunkedArray:
    """The column of cells that all lack the modality."""
    return _lists(Ragged(np.zeros(0, dtype=VALUE_TYPES[kind]), np.zeros(n_cells + 1, dtype=np.int64)), kind)


def _lists(values: Ragged, kind: str) -> pa.ChunkedArray:
    offsets = pa.array(values.offsets, pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, pa.array(values.values, VALUES[kind]))])


#: Types of the values of each modality: numpy's, and Arrow's names.
VALUE_TYPES: Mapping[str, type[np.number]] = {PROTEIN: np.float32, PEAKS: np.int32}
_ARROW = {PROTEIN: "float", PEAKS: "int32"}
