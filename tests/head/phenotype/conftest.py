"""Cells of donors with a planted phenotype, and a checkpoint pretrained on them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command

TRAIN = tuple(part for part in SMALL if "tokens_per_batch" not in part and "positions" not in part)


def planted_donors(n_cells=720, n_donors=24, seed=1):
    """Cells of which a third, all of type 1, express 15 genes twelve times as much in the donors that respond."""
    cells = synthetic_cells(
        n_cells=n_cells, n_genes=150, n_types=3, n_batches=2, n_donors=n_donors, depth=800, seed=seed
    )
    donor = cells.obs["donor"].cat.codes.to_numpy()
    responds = (donor // 2) % 2 == 1
    counts = cells.X.toarray()
    own = responds & (cells.obs["cell_type"] == "type 1").to_numpy()
    counts[np.ix_(own, np.arange(15))] = 12 * counts[np.ix_(own, np.arange(15))] + 3
    cells.X = type(cells.X)(counts)
    cells.obs["response"] = pd.Categorical(np.where(responds, "yes", "no"))
    cells.obs["dose"] = responds * 2.0 + (donor % 3)
    cells.obs["seen"] = 1.0
    cells.obs["lane"] = pd.Categorical(np.where(responds, "l2", "l1"))
    cells.obs["noise"] = pd.Categorical(
        np.where(np.isin(donor, np.random.default_rng(0).permutation(n_donors)[:12]), "a", "b")
    )
    return cells


@pytest.fixture(scope="session")
def donors(tmp_path_factory):
    """20 donors in a store, four others in a file, and a small pretrained checkpoint."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("donors")
    cells = planted_donors()
    new = cells.obs["donor"].cat.codes.to_numpy() >= 20
    known = cells[~new].copy()
    known.obs["donor"] = known.obs["donor"].cat.remove_unused_categories()
    known.write_h5ad(folder / "cells.h5ad")
    cells[new].copy().write_h5ad(folder / "new.h5ad")
    columns = "obs=[cell_type,donor,batch,response,dose,seen,lane]"
    command(
        "prepare", f"input={folder / 'cells.h5ad'}", f"output={folder / 'store'}", columns, "group=donor", "workers=1"
    )
    steps = ("trainer.max_steps=8", "data.max_length=64", "data.tokens_per_batch=1024")
    command("train", f"output={folder / 'pre'}", f"store={folder / 'store'}", *TRAIN, *steps)
    return SimpleNamespace(
        folder=folder, cells=known, checkpoint=folder / "pre/checkpoints/last.ckpt", store=folder / "store"
    )
