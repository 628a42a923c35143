"""Real cells of a task of cohorts.py, and reading them."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
from tasks.bench import Bench


@dataclass(frozen=True)
class Set:
    """Real cells with a truth.

    Attributes:
        file: without .h5ad.
        label: obs column of the truth.
        group: obs column of donors, cohorts or patients.
        cells: as many are read, drawn at random; 0 for all.
    """

    file: str
    label: str
    group: str = ""
    cells: int = 0


def read(bench: Bench, one: Set) -> ad.AnnData:
    """The cells of a set.

    Raises:
        FileNotFoundError: they are not there.
    """
    path = Path(bench.data) / f"{one.file}.h5ad"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; say with --data where the .h5ad files lie")
    cells = ad.read_h5ad(path)
    if not 0 < one.cells < cells.n_obs:
        return cells
    return cells[np.sort(np.random.default_rng(0).choice(cells.n_obs, one.cells, replace=False))].copy()
