"""Loom files: genes x cells, dense, in HDF5 (http://linnarssonlab.org/loompy/format)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import h5py
import numpy as np
import pandas as pd

from scfm.cells.formats.hdf5_matrix import DenseMatrix
from scfm.cells.source import Matrix, Place, Source

#: Attributes that name cells and genes, by preference.
CELL_NAMES = ("CellID", "obs_names", "cell_names", "Barcode", "barcode")
GENE_NAMES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")


class Loom:
    """A :class:`~scfm.cells.source.Source` over a loom file.

    Raises:
        ValueError: no matrix.
    """

    def __init__(self, file: h5py.File) -> None:
        if not isinstance(file.get("matrix"), h5py.Dataset):
            raise ValueError("has row_attrs and col_attrs but no matrix: it is not a whole loom file")
        self.file = file
        self.n_cells = int(file["matrix"].shape[1])
        self._cells, self._genes = file["col_attrs"], file["row_attrs"]
        self._names = next((name for name in CELL_NAMES if name in self._cells), None)
        self.obs_columns = [name for name in _flat(self._cells) if name != self._names]
        layers = sorted(file["layers"].keys()) if "layers" in file else []
        self.layers: Mapping[str, Place] = {name: self._place(f"layers[{name!r}]", f"layers/{name}") for name in layers}
        counts = [self.layers["counts"]] if "counts" in self.layers else []
        self.default: Sequence[Place] = [*counts, self._place("matrix", "matrix")]
        self.arrays: Mapping[str, Place] = {}
        self.modalities: Mapping[str, Callable[[], Source]] = {}

    def _place(self, label: str, path: str) -> Place:
        return Place(label, partial(self._matrix, label, path), self._var)

    def _matrix(self, label: str, path: str) -> Matrix:
        matrix = DenseMatrix(self.file[path], transposed=True)
        for group, axis, what in ((self._cells, 0, "cells"), (self._genes, 1, "genes")):
            for name in _flat(group):
                if group[name].shape[0] != matrix.shape[axis]:
                    raise ValueError(
                        f"its {label} has {matrix.shape[axis]} {what} but {group.name}/{name} has "
                        f"{group[name].shape[0]} entries"
                    )
        return matrix

    def _var(self) -> pd.DataFrame:
        n = int(self.file["matrix"].shape[0])
        columns = {name: _values(self._genes[name], 0, n) for name in _flat(self._genes)}
        index = next((name for name in GENE_NAMES if name in columns), None)
        names = [str(i) for i in range(n)] if index is None else [str(value) for value in columns.pop(index)]
        return pd.DataFrame(columns, index=pd.Index(names, dtype=object))

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        if self._names is None:
            names: Any = range(start, stop)
        else:
            names = _values(self._cells[self._names], start, stop)
        values = {name: _values(self._cells[name], start, stop) for name in columns}
        return pd.DataFrame(values, index=pd.Index([str(name) for name in names], dtype=object), columns=list(columns))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _flat(group: h5py.Group) -> list[str]:
    """Attributes with one value per row or column."""
    return [name for name, values in group.items() if isinstance(values, h5py.Dataset) and values.ndim == 1]


def _values(dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    values = dataset[start:stop]
    if values.dtype.kind in "SO":
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object)
    return values
