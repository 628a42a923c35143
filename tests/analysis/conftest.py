"""Small checkpoints and cells that analyses are asked about."""

from types import SimpleNamespace

import numpy as np
import pytest

from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    """Cells with planted ligand and receptor, and checkpoints: ``mlm``, ``ar`` and ``head`` (a classifier on types)."""
    folder = tmp_path_factory.mktemp("asked")
    cells = synthetic_cells(n_cells=160, n_genes=150, n_types=3, n_batches=2, n_donors=4, depth=400.0, seed=1)
    counts = cells.X.toarray()
    kind = cells.obs["cell_type"].cat.codes.to_numpy()
    rng = np.random.default_rng(0)
    counts[kind == 0, 3] += rng.poisson(20, (kind == 0).sum())
    counts[kind == 2, 5] += rng.poisson(20, (kind == 2).sum())
    cells.X = type(cells.X)(counts)
    file = folder / "cells.h5ad"
    cells.write_h5ad(file)
    command("prepare", f"input={file}", f"output={folder / 'store'}", "workers=1", "obs=[cell_type]", "group=donor")
    for name in ("mlm", "ar"):
        command(
            "train", f"store={folder / 'store'}", f"output={folder / name}", f"objective={name}", *SMALL,
            "data.max_length=32", "trainer.max_steps=15",
        )  # fmt: skip
    paths = {name: folder / name / "checkpoints" / "last.ckpt" for name in ("mlm", "ar")}
    command(
        "finetune", f"init_from={paths['mlm']}", f"store={folder / 'store'}", f"output={folder / 'head'}",
        "head=annotation/classifier", "head.label=cell_type", "head.gene_components=4", *SMALL[5:],
        "data.max_length=32", "trainer.max_steps=4",
    )  # fmt: skip
    return SimpleNamespace(
        folder=folder, cells=cells, file=file, **paths, head=folder / "head" / "checkpoints" / "last.ckpt"
    )
