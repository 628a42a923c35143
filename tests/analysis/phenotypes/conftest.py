"""Donors with a planted phenotype and a checkpoint of a small backbone."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """16 donors of about 22 cells; in half of them type 1 expresses 15 genes more: ``response``."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cohort")
    cells = synthetic_cells(n_cells=352, n_genes=120, n_types=3, n_batches=2, n_donors=16, depth=600, seed=3)
    donor = cells.obs["donor"].cat.codes.to_numpy()
    responds = (donor // 2) % 2 == 1
    counts = cells.X.toarray()
    own = responds & (cells.obs["cell_type"] == "type 1").to_numpy()
    counts[np.ix_(own, np.arange(15))] = 12 * counts[np.ix_(own, np.arange(15))] + 3
    cells.X = type(cells.X)(counts)
    cells.obs["response"] = pd.Categorical(np.where(responds, "yes", "no"))
    cells.obs["noise"] = pd.Categorical(np.where(np.isin(donor, [0, 3, 4, 7, 9, 10, 13, 14]), "a", "b"))
    cells.obs["lane"] = pd.Categorical(np.where(responds, "l2", "l1"))
    file = folder / "cells.h5ad"
    cells.write_h5ad(file)
    command("prepare", f"input={file}", f"output={folder / 'store'}", "workers=1", "obs=[cell_type]", "group=donor")
    command(
        "train", f"store={folder / 'store'}", f"output={folder / 'pre'}", *SMALL, "data.max_length=32",
        "trainer.max_steps=8",
    )  # fmt: skip
    return SimpleNamespace(folder=folder, cells=cells, file=file, checkpoint=folder / "pre/checkpoints/last.ckpt")
