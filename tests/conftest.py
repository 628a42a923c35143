"""Fixtures that every part of the tests uses."""

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from support import SMALL, command, write_made_store

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_loads():
    """A test that resumes from another run's shards forces plain loads in this process; the next test begins anew."""
    yield
    os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files and real cells that are not part of the project."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference files (../shared) are not here")
    return folder


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small token store that a tiny model learns from in seconds."""
    return write_made_store(tmp_path_factory.mktemp("stores") / "made").path


@pytest.fixture
def train(made_store: Path, tmp_path: Path):
    """Pretrain a tiny model: ``train("objective=ar", output="name")`` -> (value of the metric, output folder)."""

    def run(*overrides: str, output: str = "run"):
        folder = tmp_path / output
        found = command("train", f"store={made_store}", f"output={folder}", *SMALL, *overrides)
        return found, folder

    return run


@pytest.fixture
def blobs():
    """(embedding, labels, batch): four separate labels, three batches that shift a little."""
    rng = np.random.default_rng(0)
    labels, batch = np.repeat(np.arange(4), 120), np.tile(np.arange(3), 160)
    centers = rng.normal(scale=4, size=(4, 8))
    shift = rng.normal(scale=0.4, size=(3, 8))
    return centers[labels] + shift[batch] + rng.normal(size=(480, 8)), labels, batch


@pytest.fixture
def make_adata():
    """Three types of different expression programs, four batches with own gene biases."""

    def make(n_cells=240, n_genes=120, seed=0):
        rng = np.random.default_rng(seed)
        types, batches = np.arange(n_cells) % 3, (np.arange(n_cells) // 3) % 4
        rate = rng.gamma(1.0, 1.0, (3, n_genes))[types] * np.exp(0.4 * rng.normal(size=(4, n_genes)))[batches]
        adata = anndata.AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))
        adata.obs_names = [f"cell{i}" for i in range(n_cells)]
        adata.obs["type"] = pd.Categorical(np.array(["B", "NK", "T"])[types])
        adata.obs["donor"] = pd.Categorical([f"donor {b}" for b in batches])
        adata.obsm["X_scfm"] = np.eye(3)[types] * 3 + rng.normal(scale=0.6, size=(n_cells, 3))
        return adata

    return make
