"""Real cells of a task of cohorts.py, and reading them."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
from tasks.bench import Bench


@dataclass(frozen=True)
class Set:
    """Real cells with a truth.

    Attributes:
        file: without .h5ad.
        label: obs column of the truth.
        group: obs column of donors, cohorts or patients.
    """

    file: str
    label: str
    group: str = ""


def read(bench: Bench, one: Set) -> ad.AnnData:
    """The cells of a set.

    Raises:
        FileNotFoundError: they are not there.
    """
    path = Path(bench.data) / f"{one.file}.h5ad"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; say with --data where the .h5ad files lie")
    return ad.read_h5ad(path)
