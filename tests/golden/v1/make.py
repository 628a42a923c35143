"""Makes this folder with the code of commit 644f21f: see README.md. It is not run by the tests.

python make.py WORK    (WORK: an empty folder for what is not kept)
"""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from hydra import compose, initialize_config_dir

HERE = Path(__file__).resolve().parent
#: In checkpoints, instead of the folder they were made in.
NEUTRAL = "/data"
OBS = "obs=[cell_type,lineage,batch,stage,age,donor]"
CELLS = ("input=cells.h5ad", OBS, "group=donor", "workers=1")
STORES = {
    "iseeek": ("tokenizer=iseeek",),
    "tgpt": ("tokenizer=tgpt",),
    "geneformer_v2": ("tokenizer=geneformer_v2",),
    "geneformer_v2_counts": ("tokenizer=geneformer_v2", "keep_counts=true"),
}
QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
RUN = (*QUIET, "seed=0", "callbacks.progress=null", "data.tokens_per_batch=1024", "data.max_length=64")
MODEL = ("model.layers=2", "model.width=8", "model.heads=2", "model.feedforward=16", "model.positions=64")
PRETRAINED = {
    "mlm": ("objective=mlm", "store=stores/geneformer_v2_counts"),
    "mlm_iseeek": ("objective=mlm", "store=stores/iseeek"),
    "mlm_mix": (
        "objective=mlm", "data=mix", "store.paths=[stores/geneformer_v2,stores/geneformer_v2_counts]",
        "store.weights=[3,1]",
    ),
    "ar": ("objective=ar", "store=stores/tgpt"),
}  # fmt: skip
TUNE = (
    *RUN, "init_from=runs/mlm/checkpoints/last.ckpt", "store=stores/geneformer_v2_counts", "data.group=null",
    "data.val=0.2", "data.test=0.1", "trainer.max_steps=6", "validate_every=3", "report=false",
    "callbacks.best.save_weights_only=true",
)  # fmt: skip
SPACE = ("head.size=4", "head.hidden=8", "head.genes=4")
STAGES = "head.stages=[d0,d1,d2]"
TUNED = {
    "annotation_classifier": ("head=annotation/classifier", "head.genes=4"),
    "annotation_classifier_counts": (
        "head=annotation/classifier", "head.genes=4", "head.counts=true", "head.context=24",
    ),
    "annotation_classifier_labels": ("head=annotation/classifier", "head.genes=4", "head.label=[cell_type,stage]"),
    "annotation_classifier_levels": (
        "head=annotation/classifier", "head.genes=4", "head.label=[lineage,cell_type]", "head.levels=true",
    ),
    "annotation_classifier_lora": (
        "head=annotation/classifier", "head.genes=4", "head.probe=false", "head.hidden=8", "head.pseudo_weight=0.5",
        "adapt=lora", "adapt.rank=2",
    ),
    "annotation_prototype": ("head=annotation/prototype", "head.genes=4", "head.dim=4"),
    "integration_adversarial": (
        "head=integration/adversarial", *SPACE, "head.label=cell_type", "head.condition=cell_type",
    ),
    "integration_batch_token": ("head=integration/batch_token", *SPACE, "head.thin=0.3", "head.queue=16"),
    "integration_batch_token_prototype": ("head=integration/batch_token_prototype", *SPACE),
    "integration_cond_decoder": ("head=integration/cond_decoder", *SPACE, "head.anneal=2"),
    "integration_contrastive_sampler": (
        "head=integration/contrastive_sampler", *SPACE, "head.mode=knn", "head.neighbours=5", "head.p_in=0.8",
        "head.micro_batches=coverage",
    ),
    "integration_distill": (
        "head=integration/distill", *SPACE, "adapt=frozen", "head.label=cell_type", "head.cosine=0.5",
    ),
    "integration_triplet": ("head=integration/triplet", *SPACE, "head.neighbours=5", "head.label=cell_type"),
    "trajectory_ordinal": (
        "head=trajectory/ordinal", "head.genes=4", "head.label=stage", STAGES, "head.fate=cell_type",
    ),
    "trajectory_pseudotime": (
        "head=trajectory/pseudotime", "head.genes=4", "head.hidden=8", "head.neighbours=10", "head.warm_up=20",
        "head.root_label=stage", "head.root_type=d0", "head.fate=cell_type",
    ),
    "trajectory_time": ("head=trajectory/time", "head.genes=4", "head.label=age", "head.bins=8"),
    "visualization_parametric_umap": (
        "head=visualization/parametric_umap", "adapt=frozen", "head.genes=4", "head.neighbours=5", "head.sample=40",
        "head.warm_up=50",
    ),
}  # fmt: skip


def command(name, *overrides):
    """Run a command of that version as its command line would, in this process."""
    from scfm.cli import CONFIGS, lenient
    from scfm.config import check, shipped

    print("scfm", name, *overrides, flush=True)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, lenient(list(overrides)))
    check(cfg, shipped(CONFIGS, name))
    return importlib.import_module(f"scfm.run.{name}").run(cfg)


def make_cells(path):
    """60 made-up cells with real gene names."""
    from scfm.data.synthetic import synthetic_cells

    cells = synthetic_cells(n_cells=60, n_genes=80, n_types=3, n_batches=2, n_donors=4, depth=600, seed=3)
    time = cells.obs.pop("pseudotime").to_numpy()
    cells.obs["lineage"] = np.where(cells.obs["cell_type"] == "type 3", "b", "a")
    cells.obs["stage"] = np.array(["d0", "d1", "d2"])[np.minimum((time * 3 + 0.1).astype(int), 2)]
    cells.obs["age"] = np.round(20 + 50 * time)
    cells.X = cells.X.toarray().astype(np.uint16)  # the smallest file
    cells.write_h5ad(path)


def without_place(value, place):
    """The same values with the folder they were made in called ``/data``."""
    if isinstance(value, dict):
        return type(value)((without_place(key, place), without_place(item, place)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(without_place(item, place) for item in value)
    return value.replace(place, NEUTRAL) if isinstance(value, str) else value


def keep(name, path):
    """A checkpoint without its place and, to be small, without the optimizer; ``mlm`` alone keeps that.

    The weights and what the checkpoint says of itself are not touched.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if name != "mlm":
        for entry in ("optimizer_states", "lr_schedulers", "callbacks", "loops"):
            state.pop(entry, None)
    with open(HERE / "checkpoints" / f"{name}.ckpt", "wb") as file:
        torch.save(without_place(state, str(Path.cwd())), file)


def main(work):
    """Make everything."""
    for part in ("stores", "checkpoints"):
        shutil.rmtree(HERE / part, ignore_errors=True)
        (HERE / part).mkdir()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    torch.set_num_threads(1)
    make_cells("cells.h5ad")
    shutil.copyfile("cells.h5ad", HERE / "cells.h5ad")
    arrays, about = {}, {"stores": {}, "checkpoints": {}}
    for name, options in STORES.items():
        command("prepare", *CELLS, f"output=stores/{name}", *options)
        shutil.copytree(f"stores/{name}", HERE / "stores" / name)
        about["stores"][name] = tokens(name, arrays)
    for name, options in PRETRAINED.items():
        command("train", f"output=runs/{name}", *RUN, *MODEL, *options, "trainer.max_steps=10", "validate_every=5")
        keep(name, f"runs/{name}/checkpoints/last.ckpt")
    for name, options in TUNED.items():
        command("finetune", f"output=runs/{name}", *TUNE, *options)
        keep(name, f"runs/{name}/checkpoints/best.ckpt")
    for name in (*PRETRAINED, *TUNED):
        about["checkpoints"][name] = embedded(name, arrays)
    np.savez_compressed(HERE / "expected.npz", **arrays)
    (HERE / "expected.json").write_text(json.dumps(about, indent=1) + "\n")


def tokens(name, arrays):
    """The tokens of a store."""
    from scfm.data.store import TokenStore

    store = TokenStore.open(HERE / "stores" / name)
    rows = store.gather(np.arange(len(store)))
    arrays[f"{name}/values"], arrays[f"{name}/offsets"] = np.asarray(rows.values), np.asarray(rows.offsets)
    return {"counts": name.endswith("counts")}


def embedded(name, arrays):
    """What scfm-embed writes with a checkpoint."""
    file = HERE / "checkpoints" / f"{name}.ckpt"
    command("embed", f"init_from={file}", "input=cells.h5ad", "output=out.h5ad", "overwrite=true", *QUIET)
    before, found = ad.read_h5ad("cells.h5ad"), ad.read_h5ad("out.h5ad")
    obsm = [key for key in found.obsm if key.startswith("X_")]
    obs = [key for key in found.obs if key not in before.obs]
    for key in obsm:
        arrays[f"{name}/obsm/{key}"] = np.asarray(found.obsm[key], dtype=np.float32)
    for key in obs:
        values = found.obs[key].to_numpy()
        arrays[f"{name}/obs/{key}"] = values.astype(str) if values.dtype.kind not in "fiub" else values
    # heads that put what they read into X_scfm: the embedding and gene components beside it
    return {"obsm": obsm, "obs": obs, "state_in_x_scfm": found.obsm["X_scfm"].shape[1] != 8}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
