"""Files of cells for the tests of reading."""

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix


def make_cells(n_cells: int = 50, n_genes: int = 30, seed: int = 0, dtype: str = "float32") -> anndata.AnnData:
    """Sparse counts with an empty column, obs of several kinds, genes by symbol and Ensembl id."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, (n_cells, n_genes))
    counts[:, 3] = 0
    counts[:, 0] += 1
    obs = pd.DataFrame(index=[f"cell-{i}" for i in range(n_cells)])
    obs["kind"] = pd.Categorical(rng.choice(["T cell", "B-Zelle", "细胞"], n_cells))
    obs["age"] = rng.random(n_cells).astype(np.float32)
    obs["donor"] = [f"d{i % 3}" for i in range(n_cells)]
    obs["good"] = rng.random(n_cells) > 0.5
    obs["plate"] = np.arange(n_cells, dtype=np.int64)
    var = pd.DataFrame(
        {"gene_id": [f"ENSG{i:011d}" for i in range(n_genes)]}, index=[f"GENE{i}" for i in range(n_genes)]
    )
    return anndata.AnnData(csr_matrix(counts.astype(dtype)), obs=obs, var=var)


@pytest.fixture
def cells() -> anndata.AnnData:
    return make_cells()


@pytest.fixture
def h5ad(tmp_path: Path) -> Callable[..., Path]:
    """Writes cells to a file of the test's own folder."""

    def write(cells: anndata.AnnData, name: str = "cells.h5ad", **options) -> Path:
        path = tmp_path / name
        cells.write_h5ad(path, **options)
        return path

    return write
