"""Formats whose obs is only names: 10x ``.h5`` and Matrix Market folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scfm.cells.source import Matrix, Place, Source


class NamesOnly:
    """A :class:`~scfm.cells.source.Source` with one matrix and no columns in obs.

    Args:
        names: the cells' names.
        var: (G rows) the genes' table.
        label: what the matrix is called.
        matrix: opens it.
        owner: what to close at the end.
    """

    def __init__(
        self, names: np.ndarray, var: pd.DataFrame, label: str, matrix: Callable[[], Matrix], owner: Any = None
    ) -> None:
        self.names = names
        self.n_cells = len(names)
        self.obs_columns: list[str] = []
        self.layers: Mapping[str, Place] = {}
        self.default: Sequence[Place] = [Place(label, matrix, lambda: var)]
        self.arrays: Mapping[str, Place] = {}
        self.modalities: Mapping[str, Callable[[], Source]] = {}
        self.owner = owner

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of ``obs``, see :class:`~scfm.cells.source.Source`."""
        return pd.DataFrame(index=pd.Index(self.names[start:stop], dtype=object), columns=list(columns))

    def close(self) -> None:
        """Close the file."""
        if self.owner is not None:
            self.owner.close()
