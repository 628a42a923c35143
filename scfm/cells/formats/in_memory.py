"""An AnnData in memory, read as a file is read: same places of counts, same checks. It is never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scfm.cells.formats.hdf5_matrix import widen
from scfm.cells.source import Matrix, Place, Source

if TYPE_CHECKING:
    from anndata import AnnData


class InMemory:
    """A :class:`~scfm.cells.source.Source` over an AnnData, backed ones and views included."""

    def __init__(self, adata: AnnData) -> None:
        self.adata = adata
        self.n_cells = adata.n_obs
        self.obs_columns = list(map(str, adata.obs.columns))
        self.layers: Mapping[str, Place] = {
            str(name): self._place(f"layers[{name!r}]", partial(adata.layers.__getitem__, name), adata.var)
            for name in adata.layers
        }
        default = [self.layers["counts"]] if "counts" in self.layers else []
        if adata.raw is not None:
            default.append(self._place("raw.X", lambda: adata.raw.X, adata.raw.var))
        if adata.X is not None:
            default.append(self._place("X", lambda: adata.X, adata.var))
        self.default: Sequence[Place] = default
        tables = {str(name): values for name, values in adata.obsm.items() if isinstance(values, pd.DataFrame)}
        self.arrays: Mapping[str, Place] = {
            name: self._place(f"obsm[{name!r}]", values.to_numpy, pd.DataFrame(index=values.columns))
            for name, values in tables.items()
        }
        self.modalities: Mapping[str, Callable[[], Source]] = {}

    def _place(self, label: str, values: Any, var: pd.DataFrame) -> Place:
        return Place(label, lambda: Rows(values()), lambda: var.set_axis(var.index.astype(str)))

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        frame = self.adata.obs.iloc[start:stop][list(columns)]
        return frame.set_axis(frame.index.astype(str))

    def close(self) -> None:
        """Nothing to close: the AnnData is the user's."""


class Rows(Matrix):
    """Cells x genes that numpy, scipy or h5py slices by rows.

    Args:
        values: (B, G) dense, sparse or backed.
    """

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape = (int(values.shape[0]), int(values.shape[1]))

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Rows in blocks, see :class:`~scfm.cells.source.Matrix`; entries that occur twice are added up."""
        for low in range(start, stop, size):
            yield self._rows(low, min(low + size, stop))

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Stored values of rows from all over the matrix, see :class:`~scfm.cells.source.Matrix`."""
        rows = np.unique(np.linspace(0, self.shape[0] - 1, num=min(self.shape[0], 256), dtype=np.int64))
        block = csr_matrix(widen(self.values[rows]))
        owner = np.repeat(rows, np.diff(block.indptr))
        kept = np.linspace(0, len(owner) - 1, num=min(n, len(owner)), dtype=np.int64)
        return block.data[kept], owner[kept]

    def _rows(self, low: int, high: int) -> csr_matrix:
        block = csr_matrix(widen(self.values[low:high]), copy=True)
        block.sum_duplicates()
        block.eliminate_zeros()
        return block

    def close(self) -> None:
        """Nothing to remove."""
