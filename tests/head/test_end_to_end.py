"""Every head by the commands a user types: fine-tune on one file, project another one of an unseen batch."""

import anndata as ad
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from scfm.cli import CONFIGS
from scfm.config import target
from scfm.datasets.synthetic import synthetic_cells
from support import SMALL, command

FAST = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
TRAIN = tuple(part for part in SMALL if "tokens_per_batch" not in part and "positions" not in part)
HEADS = {
    "annotation/classifier": ("head.counts=true", "head.label=[lineage,cell_type]", "head.levels=true"),
    "annotation/prototype": ("head.counts=true",),
    "annotation/pooled": ("head.pooler=attention", "head.label=[lineage,cell_type]", "head.weights=[0.5,1.0]"),
    "integration/contrastive_sampler": (
        "head.mode=knn", "head.neighbors=5", "head.p_in=0.8", "head.micro_batches=coverage"
    ),
    "integration/batch_token": ("head.view.min_depth=0.3", "head.queue=50"),
    "integration/batch_token_prototype": ("head.width=16",),
    "integration/cond_decoder": ("head.anneal=2",),
    "integration/triplet": ("head.neighbors=10",),
    "integration/distill": ("adapt=frozen", "head.label=cell_type", "head.cosine=0.5"),
    "integration/adversarial": ("head.label=cell_type", "head.condition=cell_type"),
    "trajectory/time": ("head.label=pseudotime",),
    "trajectory/ordinal": ("head.label=cell_type", "head.stages=['type 1','type 2','type 3']"),
    "trajectory/pseudotime": (
        "head.root_type='type 1'", "head.root_label=cell_type", "head.fate=end"
    ),
    "clustering/self_training": ("head.resolution=0.5", "head.min_cluster=5", "head.label=cell_type"),
    "visualization/parametric_umap": ("adapt=frozen", "head.sample=80", "head.warm_up=50"),
}  # fmt: skip
WRITES = {
    "classifier": (None, "scfm_cell_type"),
    "pooled": (None, "scfm_cell_type"),
    "batch_token_prototype": ("X_scfm_integrated", "scfm_cell_type"),
    "prototype": ("X_scfm_prototype", "scfm_cell_type"),
    "integration": ("X_scfm_integrated", None),
    "time": (None, "scfm_pseudotime"),
    "ordinal": (None, "scfm_stage"),
    "pseudotime": ("X_scfm_fates", "scfm_pseudotime"),
    "clustering": (None, "scfm_cluster"),
    "visualization": ("X_scfm_umap", None),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cells of three batches, two of them in a store, and a checkpoint pretrained on it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("heads")
    cells = synthetic_cells(n_cells=240, n_genes=200, n_types=3, n_batches=3, seed=1)
    cells.obs["end"] = np.where(
        cells.obs["pseudotime"] > 0.9, "late", np.where(cells.obs["pseudotime"] < 0.1, "early", None)
    )
    cells.obs["lineage"] = np.where(cells.obs["cell_type"] == "type 3", "b", "a")
    new = cells.obs["batch"] == cells.obs["batch"].unique()[-1]
    cells[new].copy().write_h5ad(folder / "new.h5ad")
    cells[~new].copy().write_h5ad(folder / "cells.h5ad")
    other = cells[new].copy()
    other.var_names = [f"contig_{i}" for i in range(other.n_vars)]
    other.var = other.var[[]]
    other.write_h5ad(folder / "other_genes.h5ad")
    columns = "obs=[cell_type,batch,pseudotime,end,lineage]"
    command(
        "prepare",
        f"input={folder / 'cells.h5ad'}",
        f"output={folder / 'store'}",
        columns,
        "workers=1",
        "keep_counts=true",
    )
    command("train", f"output={folder / 'pre'}", f"store={folder / 'store'}", *TRAIN, *_steps(8))
    return folder


def _steps(n):
    return (f"trainer.max_steps={n}", "data.max_length=64", "data.tokens_per_batch=1024")


#: Heads that need other cells: tests/head/phenotype/, perturbation/, multimodal/, imputation/.
ELSEWHERE = {
    "phenotype/attention", "phenotype/bulk", "perturbation/shift", "multimodal/protein", "multimodal/clip",
    "imputation/denoise",
}  # fmt: skip


def test_no_head_is_forgotten():
    folder = CONFIGS / "head"
    assert set(HEADS) | ELSEWHERE == {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}


@pytest.mark.parametrize("head", HEADS)
def test_fine_tunes_and_projects_an_unseen_batch(head, made, tmp_path):
    without_model = [part for part in TRAIN if not part.startswith("model.")]
    score = command(
        "finetune", f"head={head}", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}",
        f"output={tmp_path / 'run'}", "validate_every=3", "data.group=null", *HEADS[head], *without_model, *_steps(6),
    )  # fmt: skip
    assert np.isfinite(score)
    best = tmp_path / "run/checkpoints/best.ckpt"
    command("embed", f"init_from={best}", f"input={made / 'new.h5ad'}", f"output={tmp_path / 'out.h5ad'}", *FAST)
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    matrix, column = next(names for part, names in WRITES.items() if part in head)
    if matrix is not None:
        assert found.obsm[matrix].shape[0] == found.n_obs
        assert np.isfinite(found.obsm[matrix]).all()
    if column is not None:
        assert found.obs[column].notna().all()
    if matrix is not None:
        assert "genes" in found.uns["scfm"]["X_scfm"]["head"]["projection"]


@pytest.mark.parametrize("head", ["annotation/classifier", "annotation/prototype"])
def test_counts_stay_with_their_tokens_when_memory_runs_out(head, made, tmp_path, monkeypatch, caplog):
    kind = target(OmegaConf.load(CONFIGS / f"head/{head}.yaml"))
    forward = kind.forward

    def limited(self, backbone, batch):
        if self.training and batch.n_tokens > 300:
            raise torch.OutOfMemoryError("fake: out of memory")
        assert batch.counts is not None
        assert len(batch.counts) == batch.n_tokens
        return forward(self, backbone, batch)

    monkeypatch.setattr(kind, "forward", limited)
    score = command(
        "finetune", f"head={head}", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"store={made / 'store'}",
        f"output={tmp_path / 'run'}", "validate_every=3", "data.group=null", "callbacks.progress=null", *HEADS[head],
        *FAST, *_steps(6),
    )  # fmt: skip
    assert np.isfinite(score)
    assert "4 parts" in caplog.text


def test_projection_onto_other_genes_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"other_genes.h5ad"):
        command(
            "embed", f"init_from={made / 'pre/checkpoints/last.ckpt'}", f"input={made / 'other_genes.h5ad'}",
            f"output={tmp_path / 'out.h5ad'}", *FAST,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options", [("head=integration/cond_decoder",), ("head=integration/distill", "head.view.min_depth=0.5")]
)
def test_counts_that_the_store_does_not_keep_are_refused(options, made, made_store, tmp_path):
    command("train", f"output={tmp_path / 'pre'}", f"store={made_store}", *SMALL, "trainer.max_steps=1")
    start = (f"init_from={tmp_path / 'pre/checkpoints/last.ckpt'}", f"store={made_store}", f"output={tmp_path / 'run'}")
    with pytest.raises(ValueError, match=r"keeps ranks only, no counts: prepare it again with keep_counts=true"):
        command("finetune", *start, *options, "head.batch_key=donor", *FAST)
