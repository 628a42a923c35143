"""AnnData on disk: ``.h5ad``, ``.zarr`` (format 2 and 3, sharded or not) and one modality of a MuData ``.h5mu``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from scfm.cells.formats.frame import Frame
from scfm.cells.formats.hdf5_matrix import open_matrix
from scfm.cells.source import Matrix, Place


class Annotated:
    """A :class:`~scfm.cells.source.Source` over a group with ``obs``, ``var``, ``X``, ``raw``, ``layers``.

    Args:
        group: of h5py or zarr.
        owner: what to close at the end.

    Raises:
        ValueError: ``obs`` or ``var`` is missing, or there is no matrix at all.
    """

    def __init__(self, group: Any, owner: Any = None) -> None:
        for part in ("obs", "var"):
            if part not in group:
                raise ValueError(f"has no {part!r}; it has {', '.join(map(repr, sorted(group.keys()))) or 'nothing'}")
        self.group = group
        self.owner = owner
        self._obs = Frame(group["obs"])
        self.n_cells = self._obs.length
        self.obs_columns = self._obs.columns
        names = sorted(group["layers"].keys()) if "layers" in group else []
        self.layers: Mapping[str, Place] = {
            name: self._place(f"layers[{name!r}]", f"layers/{name}", "var") for name in names
        }
        default = [self.layers["counts"]] if "counts" in self.layers else []
        for label, matrix, var in (("raw.X", "raw/X", "raw/var"), ("raw.X", "raw.X", "raw.var"), ("X", "X", "var")):
            if matrix in group and _is_matrix(group[matrix]):
                default.append(self._place(label, matrix, var))
        self.default: Sequence[Place] = default

    def _place(self, label: str, matrix: str, var: str) -> Place:
        return Place(label, partial(self._matrix, label, matrix, var), partial(self._var, var))

    def _matrix(self, label: str, path: str, var: str) -> Matrix:
        matrix = open_matrix(self.group[path])
        genes = Frame(self.group[var]).length
        if matrix.shape != (self.n_cells, genes):
            raise ValueError(
                f"its {label} is {matrix.shape[0]} x {matrix.shape[1]} but obs has {self.n_cells} cells and "
                f"{var.replace('/', '.')} {genes} genes"
            )
        return matrix

    def _var(self, path: str) -> pd.DataFrame:
        frame = Frame(self.group[path])
        return frame.rows(0, frame.length)

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        return self._obs.rows(start, stop, columns)

    def close(self) -> None:
        """Close the file."""
        if self.owner is not None:
            self.owner.close()


def _is_matrix(element: Any) -> bool:
    """Whether X is there: AnnData writes no X, or an empty "null" element, for data without one."""
    return element.attrs.get("encoding-type", "") != "null" and bool(getattr(element, "shape", True))
