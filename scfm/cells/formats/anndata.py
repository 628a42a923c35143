"""AnnData on disk: ``.h5ad``, ``.zarr`` (format 2 and 3, sharded or not) and one modality of a MuData ``.h5mu``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scfm.cells.formats.frame import Frame
from scfm.cells.formats.hdf5_matrix import open_matrix, widen
from scfm.cells.source import Matrix, Place, Source


class AnnDataGroup:
    """A :class:`~scfm.cells.source.Source` over a group with ``obs``, ``var``, ``X``, ``raw``, ``layers``.

    Args:
        group: of h5py or zarr.
        owner: the file to close at the end.
        modalities: opens the other modalities of a MuData.

    Raises:
        ValueError: ``obs`` or ``var`` is missing, or there is no matrix at all.
    """

    def __init__(
        self, group: Any, owner: Any = None, modalities: Mapping[str, Callable[[], Source]] | None = None
    ) -> None:
        for part in ("obs", "var"):
            if part not in group:
                raise ValueError(f"has no {part!r}; it has {', '.join(map(repr, sorted(group.keys()))) or 'nothing'}")
        self.group = group
        self.owner = owner
        self._obs = self._frame("obs")
        self.n_cells = self._obs.length
        self.obs_columns = self._obs.columns
        if "layers" in group and hasattr(group["layers"], "shape"):
            raise ValueError("its layers are damaged: expected a group, found an array")
        names = sorted(group["layers"].keys()) if "layers" in group else []
        self.layers: Mapping[str, Place] = {
            name: self._place(f"layers[{name!r}]", f"layers/{name}", "var") for name in names
        }
        default = [self.layers["counts"]] if "counts" in self.layers else []
        for label, matrix, var in (("raw.X", "raw/X", "raw/var"), ("raw.X", "raw.X", "raw.var"), ("X", "X", "var")):
            if matrix in group and _is_matrix(group[matrix]):
                default.append(self._place(label, matrix, var))
        self.default: Sequence[Place] = default
        self.modalities: Mapping[str, Callable[[], Source]] = modalities or {}

    @cached_property
    def arrays(self) -> Mapping[str, Place]:
        """The tables in ``obsm``, see :class:`~scfm.cells.source.Source`; bare arrays have no names of columns."""
        group: Any = self.group.get("obsm", None)
        names = sorted(group.keys()) if hasattr(group, "keys") else []  # a compound dataset before AnnData 0.7
        return {
            name: Place(f"obsm[{name!r}]", partial(self._table, name), partial(self._table_columns, name))
            for name in names
            if group[name].attrs.get("encoding-type", "") == "dataframe"
        }

    def _table(self, name: str) -> Matrix:
        frame = self._frame(f"obsm/{name}")
        if frame.length != self.n_cells:
            raise ValueError(f"its obsm[{name!r}] has {frame.length} rows but obs has {self.n_cells} cells")
        return FrameMatrix(frame)

    def _table_columns(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(index=pd.Index(self._frame(f"obsm/{name}").columns, dtype=object))

    def _place(self, label: str, matrix: str, var: str) -> Place:
        return Place(label, partial(self._matrix, label, matrix, var), partial(self._var, var))

    def _matrix(self, label: str, path: str, var: str) -> Matrix:
        matrix = open_matrix(self.group[path])
        genes = self._frame(var).length
        if matrix.shape != (self.n_cells, genes):
            raise ValueError(
                f"its {label} is {matrix.shape[0]} x {matrix.shape[1]} but obs has {self.n_cells} cells and "
                f"{var.replace('/', '.')} {genes} genes"
            )
        return matrix

    def _var(self, path: str) -> pd.DataFrame:
        frame = self._frame(path)
        var = frame.rows(0, frame.length)
        var.index.name = None if frame.index in ("index", "_index") else frame.index
        return var

    def _frame(self, path: str) -> Frame:
        old = ["raw.cat", "uns"] if path.startswith("raw") else ["uns"]
        return Frame(self.group[path], [self.group[name] for name in old if name in self.group])

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        return self._obs.rows(start, stop, columns)

    def close(self) -> None:
        """Close the file."""
        if self.owner is not None:
            self.owner.close()


def _is_matrix(element: Any) -> bool:
    """Whether there is an X: AnnData writes no X, or an empty "null" element, for data without one."""
    return element.attrs.get("encoding-type", "") != "null" and bool(getattr(element, "shape", True))


class FrameMatrix:
    """A table of numbers on disk as a :class:`~scfm.cells.source.Matrix`."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.shape = (frame.length, len(frame.columns))

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Rows in blocks, see :class:`~scfm.cells.source.Matrix`.

        Raises:
            ValueError: a column that holds no numbers.
        """
        for low in range(start, stop, size):
            rows = self.frame.rows(low, min(low + size, stop))
            kinds = {name: values.dtype.kind for name, values in rows.items()}
            wrong = next((name for name, kind in kinds.items() if kind not in "iufb"), None)
            if wrong is not None:
                raise ValueError(f"the column {wrong!r} of its {self.frame.group.name} holds no numbers")
            yield csr_matrix(widen(rows.to_numpy()))

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of rows from all over the table, see :class:`~scfm.cells.source.Matrix`."""
        width = min(self.shape[0], max(16, n // max(1, 16 * self.shape[1])))
        starts = np.unique(np.linspace(0, self.shape[0] - width, 16).astype(np.int64))
        blocks = [next(self.blocks(low, low + width, width)) for low in starts.tolist()]
        rows = [
            low + np.repeat(np.arange(width), np.diff(block.indptr)) for low, block in zip(starts, blocks, strict=True)
        ]
        return np.concatenate([block.data for block in blocks]), np.concatenate(rows)

    def close(self) -> None:
        """Nothing to remove."""


class JoinedObs:
    """One modality of MuData whose obs also has the columns of the global obs, joined by the cells' names.

    The modality's own column takes precedence over a global one of the same name. Memory: 16 bytes per cell.

    Args:
        own: the modality.
        shared: the global obs.
    """

    def __init__(self, own: AnnDataGroup, shared: Any) -> None:
        self._own = own
        self._shared = Frame(shared)
        self.n_cells = own.n_cells
        self.layers: Mapping[str, Place] = own.layers
        self.default: Sequence[Place] = own.default
        self.modalities: Mapping[str, Callable[[], Source]] = own.modalities
        self._added = [name for name in self._shared.columns if name not in own.obs_columns]
        self.obs_columns = [*own.obs_columns, *self._added]

    @property
    def arrays(self) -> Mapping[str, Place]:
        """The tables in ``obsm`` of the modality."""
        return self._own.arrays

    @cached_property
    def _rows(self) -> np.ndarray:
        """(n_cells,) the row of each cell in the global obs, -1 where it has none."""
        names = self._shared.rows(0, self._shared.length, []).index
        if not names.is_unique:
            raise ValueError(
                "has labels in the obs of all modalities, but cells of one name twice there, so that they cannot be "
                "joined: copy them into the obs of the modality"
            )
        return names.get_indexer(self._own.obs(0, self.n_cells, []).index)

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        own = self._own.obs(start, stop, [name for name in columns if name not in self._added])
        added = [name for name in columns if name in self._added]
        if not added:
            return own
        rows = self._rows[start:stop]
        known = rows[rows >= 0]
        first, last = (int(known.min()), int(known.max()) + 1) if len(known) else (0, 0)
        joined = self._shared.rows(first, last, added).reset_index(drop=True)
        joined = joined.reindex(np.where(rows >= 0, rows - first, -1)).set_axis(own.index, axis=0)
        return pd.concat([own, joined], axis=1)[list(columns)]

    def close(self) -> None:
        """Close the file."""
        self._own.close()
