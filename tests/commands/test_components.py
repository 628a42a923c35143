"""Components of variable genes through the commands: default where the store keeps counts, none where not."""

import shutil

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm import checkpoint
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.load import restore_predictor
from support import SMALL, command

TRAIN = tuple(part for part in SMALL if "positions" not in part)
FAST = tuple(part for part in TRAIN if not part.startswith("model."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells, a store of ranks, one that keeps counts, and a checkpoint."""
    path = tmp_path_factory.mktemp("components")
    cells = synthetic_cells(n_cells=200, n_genes=120, n_types=3, n_batches=2, seed=1)
    cells.write_h5ad(path / "cells.h5ad")
    given = ("prepare", f"input={path / 'cells.h5ad'}", "obs=[cell_type,batch]", "workers=1")
    command(*given, f"output={path / 'ranks'}")
    command(*given, f"output={path / 'counts'}", "keep_counts=true")
    command("train", f"store={path / 'ranks'}", f"output={path / 'pre'}", *TRAIN, "trainer.max_steps=2")
    return path


def finetune(folder, output, store, *overrides):
    start = f"init_from={folder / 'pre/checkpoints/last.ckpt'}"
    command(
        "finetune", start, f"store={folder / store}", f"output={output}", "head.label=cell_type", "report=false",
        "trainer.max_steps=2", *FAST, *overrides,
    )  # fmt: skip
    return output / "checkpoints/best.ckpt"


@pytest.mark.parametrize("head", ["annotation/classifier", "annotation/prototype"])
def test_a_store_that_keeps_counts_brings_them_and_new_cells_need_no_other(head, folder, tmp_path):
    best = finetune(folder, tmp_path / "run", "counts", f"head={head}")
    assert checkpoint.read(best).config["head"]["variable_components"] == 50
    state = restore_predictor(checkpoint.read(best)).task.state
    assert state.blocks == (32, 64, 50)
    assert state.variable.precision.any()
    new = ad.read_h5ad(folder / "cells.h5ad")[:40].copy()
    del new.obs["cell_type"]
    new = ad.concat([new, ad.AnnData(csr_matrix(np.full((40, 1), 5)), obs=new.obs)], axis=1, merge="same")
    states = []
    for name, rows in (("all", slice(None)), ("some", slice(7, 12))):
        part = new[rows].copy()
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        command(
            "embed", f"init_from={best}", f"input={tmp_path / name}.h5ad", f"output={tmp_path / name}_out.h5ad",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "max_dropped=1",
        )  # fmt: skip
        states.append(ad.read_h5ad(tmp_path / f"{name}_out.h5ad").obsm["X_scfm_state"])
    assert states[0].shape == (40, 32 + 64 + 50)
    np.testing.assert_allclose(states[1], states[0][7:12], atol=1e-4)


def test_a_store_of_ranks_is_fine_tuned_without_them(folder, tmp_path):
    best = finetune(folder, tmp_path / "run", "ranks")
    assert checkpoint.read(best).config["head"]["variable_components"] == 0
    assert restore_predictor(checkpoint.read(best)).task.state.blocks == (32, 64)


def test_asked_for_on_a_store_of_ranks_they_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="keeps ranks only, no counts: prepare it again with keep_counts=true"):
        finetune(folder, tmp_path / "run", "ranks", "head.variable_components=50")


def test_a_fine_tune_begun_before_there_were_any_goes_on_without_them(folder, tmp_path):
    """Its stored config has no such key: on a store with counts, ``auto`` means what the run began with."""

    def trained(name, *overrides):
        finetune(folder, tmp_path / name, "counts", *overrides)
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)

    trained("old", "head.variable_components=0")
    for path in (tmp_path / "old/checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        del state["scfm"]["config"]["head"]["variable_components"]
        torch.save(state, path)
    shutil.copytree(tmp_path / "old", tmp_path / "given")
    found = trained("old", "ckpt_path=last", "trainer.max_steps=4")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    given = trained("given", "ckpt_path=last", "trainer.max_steps=4", "head.variable_components=0")
    assert {path: path.read_bytes() for path in before} == before, "a copied run leaves the original alone"
    assert found["global_step"] == 4
    assert found["scfm"]["config"]["head"]["variable_components"] == 0
    for name, value in found["state_dict"].items():  # what is not calibrated is NaN
        assert torch.equal(value.nan_to_num(-7.0), given["state_dict"][name].nan_to_num(-7.0)), name
    with pytest.raises(ValueError, match="variable_components=0, now 50: .* give head.variable_components=0, or"):
        trained("old", "ckpt_path=last", "trainer.max_steps=6", "head.variable_components=50")


def test_zero_leaves_them_out(folder, tmp_path):
    best = finetune(folder, tmp_path / "run", "counts", "head.variable_components=0")
    assert restore_predictor(checkpoint.read(best)).task.state.blocks == (32, 64)
