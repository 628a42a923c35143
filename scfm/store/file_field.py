"""The second modality of a file, by the feature numbers of a store or of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from scfm.cells.fields import FieldReader
from scfm.store.fields import VALUE_TYPES
from scfm.types import PROTEIN, Ragged


class FileField:
    """Rows of a file as a store keeps them.

    Args:
        reader: the modality of the open file; None where the file lacks it: all rows are empty.
        kind: of the modality.
        names: features of the store or of the model, in the order of their numbers.
    """

    def __init__(self, reader: FieldReader | None, kind: str, names: Sequence[str]) -> None:
        self.reader, self.kind, self.n_features = reader, kind, len(names)
        place = {name: number for number, name in enumerate(names)}
        own = [] if reader is None else reader.names
        self.numbers = np.array([place.get(name, -1) for name in own], dtype=np.int64)

    @property
    def n_known(self) -> int:
        """Features of the file that are among the names."""
        return int((self.numbers >= 0).sum())

    def rows(self, start: int, rows: np.ndarray) -> Ragged:
        """The values of some cells.

        Args:
            start: row in the file of the first cell of a block.
            rows: (B,) places in the block, ascending.
        """
        if self.reader is None or not len(rows):
            return Ragged(np.zeros(0, dtype=VALUE_TYPES[self.kind]), np.zeros(len(rows) + 1, dtype=np.int64))
        values, present = self.reader.read(start, start + int(rows[-1]) + 1)
        if self.kind == PROTEIN:
            return panel_rows(values[rows], present[rows], self.numbers, self.n_features)
        return open_rows(values[rows], self.numbers)


def panel_rows(values: csr_matrix, present: np.ndarray, numbers: np.ndarray, n_features: int) -> Ragged:
    """Rows of a panel: the value of each protein of the store, NaN for one that the file does not measure.

    Args:
        values: (B, F) of the file's panel.
        present: (B,) bool, cells that were stained; the others get an empty row.
        numbers: (F,) number in the store of each protein of the file, -1 for one that it does not name.
        n_features: proteins of the store.
    """
    wide = np.full((int(present.sum()), n_features), np.nan, dtype=np.float32)
    known = numbers >= 0
    wide[:, numbers[known]] = values[present].toarray()[:, known]
    return Ragged(wide.ravel(), np.concatenate([[0], np.cumsum(present * n_features)]).astype(np.int64))


def open_rows(values: csr_matrix, numbers: np.ndarray) -> Ragged:
    """Rows of open peaks: their numbers, ascending.

    Args:
        values: (B, F) counts or 0 and 1.
        numbers: (F,) number in the store of each peak of the file, -1 for one that is not kept.
    """
    cell = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    peak = numbers[values.indices]
    kept = (values.data > 0) & (peak >= 0)
    cell, peak = cell[kept], peak[kept]
    order = np.lexsort([peak, cell])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=values.shape[0]))]).astype(np.int64)
    return Ragged(peak[order].astype(np.int32), offsets)
