"""The interface of an open file of cells, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


class Matrix(Protocol):
    """Cells x genes on disk, read by rows.

    Attributes:
        shape: (cells, genes).
    """

    shape: tuple[int, int]

    def blocks(self, start: int, stop: int, size: int) -> Iterator[csr_matrix]:
        """Rows ``start`` to ``stop`` in blocks of ``size`` rows (the last may be smaller), (<= size, G) each."""
        ...

    def sample(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """About ``n`` stored values spread evenly over the whole matrix, and the row of each."""
        ...

    def close(self) -> None:
        """Remove temporary files, if there are any."""
        ...


@dataclass(frozen=True)
class Place:
    """Somewhere in a file where counts may be.

    Attributes:
        label: as a user would write it: ``layers['counts']``, ``raw.X``, ``X``.
        matrix: opens it.
        var: (G rows) reads its genes: index and columns.
    """

    label: str
    matrix: Callable[[], Matrix]
    var: Callable[[], pd.DataFrame]


class Source(Protocol):
    """An open file.

    Attributes:
        n_cells: number of cells.
        obs_columns: names of the columns of ``obs``.
        layers: places by layer name.
        default: places to look for counts in when no layer is named, most likely first.
        modalities: opens another modality of the file, by name; empty in formats without any.
    """

    n_cells: int
    obs_columns: list[str]
    layers: Mapping[str, Place]
    default: Sequence[Place]
    modalities: Mapping[str, Callable[[], Source]]

    @property
    def arrays(self) -> Mapping[str, Place]:
        """Tables of named columns in ``obsm``; empty in formats without any."""
        ...

    def obs(self, start: int, stop: int, columns: Sequence[str]) -> pd.DataFrame:
        """Rows ``start`` to ``stop`` of ``obs``; the index is the cells' names as strings."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def did_you_mean(name: str, have: Sequence[str], limit: int = 12) -> str:
    """``it has 'a', 'b' (did you mean 'a'?)``: the end of the sentence that refuses an unknown name.

    Args:
        name: the unknown name.
        have: the known names.
        limit: names to list at most.
    """
    if not have:
        return "it has none"
    listed = ", ".join(repr(other) for other in have[:limit]) + (", ..." if len(have) > limit else "")
    lower = {other.lower(): other for other in have}
    close = get_close_matches(name.lower(), list(lower), n=1)
    return f"it has {listed}" + (f" (did you mean {lower[close[0]]!r}?)" if close else "")


def missing_package(extra: str, package: str, path: Path) -> ImportError:
    """The error for a format whose library is an extra that is not installed."""
    return ImportError(f'reading {path} needs {package}; pip install "scfm-framework[{extra}]"')
