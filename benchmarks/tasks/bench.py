"""The cells, stores, checkpoints and fine-tunes of all tasks."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from sets import CellSet, find_file, read_cells

import scfm
from scfm.cli import lenient
from scfm.demo import call as command
from scfm.inference.load import build_backbone
from scfm.inference.saved_model import save_model

#: Human files of at least 6,900 genes that judge nothing, on which the backbone is pretrained without labels (pbmc3k is
#: one of the batches of ``pbmc3k+zheng``).
CORPUS = (
    "crohn_gut_scp1884_1020", "nsclc_dendritic_rogue", "pbmc3k", "placenta_cellxgene_220", "pbmc_4protocol",
    "pbmc_7study", "skin_ctcl_hc", "celltypist_sample", "hcl_fetal_thymus2", "pbmc_frozen_donor_a", "pisces_pbmc",
)  # fmt: skip
QUIET = ("trainer.accelerator=cpu", "callbacks.progress=null", "trainer.enable_progress_bar=false", "overwrite=true")
FINETUNE = (*QUIET, "report=false")

Measure = Callable[[dict[str, Any], Callable[[], dict[str, float]]], None]


def call(arguments: list[str]) -> Any:
    """Run one command as its command line would."""
    return command([arguments[0], *lenient(arguments[1:])])


class Bench:
    """Where cells, stores, checkpoints and fine-tunes lie.

    Args:
        data: folder of the .h5ad files.
        output: folder of everything that is made.
        checkpoint: a pretrained one; None pretrains experiment=atlas_small.
        task: a folder in ``output`` for the stores and runs of one task; None for ``output`` itself.
    """

    def __init__(self, data: Path, output: Path, checkpoint: Path | None, task: str | None = None) -> None:
        self.data, self.shared, self._checkpoint = data, output, checkpoint
        self.output = output if task is None else output / task

    @cached_property
    def checkpoint(self) -> Path:
        """The pretrained backbone, made where it is not there."""
        path = self._checkpoint or self.shared / "atlas_small/checkpoints/last.ckpt"
        if not path.is_file():
            store = self.shared / "stores/atlas_small"
            files = ",".join(str(find_file(name, self.data)) for name in CORPUS)
            if not store.exists():
                options = ["empty=drop", "on_duplicate_cells=number", "keep_counts=true"]
                call(["prepare", f"input=[{files}]", f"output={store}", *options])
            call(["train", "experiment=atlas_small", f"store={store}", f"output={path.parents[1]}", *QUIET])
        return path

    @cached_property
    def untrained(self) -> Path:
        """The same architecture with the weights that a random start has."""
        path = self.shared / "untrained/checkpoints/last.ckpt"
        if not path.is_file():
            model = scfm.load(self.checkpoint)
            torch.manual_seed(0)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(model.checkpoint, build_backbone(model.checkpoint), model.head, path)
        return path

    def cells(self, one: CellSet) -> ad.AnnData:
        """The cells of a set, see :func:`sets.read_cells`."""
        return read_cells(one, self.data)

    def store(self, name: str, cells: ad.AnnData, obs: Sequence[str], *more: str) -> Path:
        """A token store of some cells in the vocabulary of the checkpoint."""
        path = self.output / "stores" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.with_suffix(".h5ad")
            cells.write_h5ad(file)
            source = [f"input={file}", f"output={path}", f"obs=[{','.join(obs)}]", "on_duplicate_cells=number"]
            options = ["keep_counts=true", "workers=1"]
            call(["prepare", *source, f"init_from={self.checkpoint}", *options, *more])
            file.unlink()
        return path

    def finetune(
        self, name: str, experiment: str, store: Path, seed: int, *more: str, checkpoint: Path | None = None
    ) -> Path:
        """The folder of a fine-tune of a checkpoint (None: the pretrained one), on a split of its own seed."""
        folder = self.output / "runs" / name
        seeds = [f"seed={seed}", f"data.split_seed={seed}"]
        base = [f"init_from={checkpoint or self.checkpoint}", f"store={store}", f"output={folder}"]
        call(["finetune", f"experiment={experiment}", *base, *seeds, *more, *FINETUNE])
        return folder


def predicted(folder: Path, store: Path) -> tuple[dict[str, np.ndarray], Any]:
    """What a fine-tuned head says of all cells of a store, in their order, and the head."""
    from omegaconf import OmegaConf

    from scfm.checkpoint import read
    from scfm.config import build
    from scfm.inference.load import restore_predictor
    from scfm.inference.predict import predictions
    from scfm.model.readout import reads_counts
    from scfm.store.token_store import TokenStore
    from scfm.types import Needs

    module = restore_predictor(read(folder / "checkpoints/best.ckpt"))
    data = build(OmegaConf.load(folder / "config.yaml").data, TokenStore.open(store))
    counts = module.task.requirements().counts or reads_counts(module.backbone)
    data = data.planned(Needs(counts=counts))
    return predictions(module, data, np.arange(len(data.store))), module.task


def split_of(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of each part of a fine-tune's split; of a file whose cells have the same names, by their order."""
    table = pd.read_csv(folder / "split.csv", dtype=str)
    place = {name: row for row, name in enumerate(names)}
    rows = table["cell"].map(place).to_numpy()
    return {part: np.sort(rows[table["part"] == part]) for part in table["part"].unique()}


def embedded(bench: Bench, name: str, cells: ad.AnnData, checkpoint: Path) -> np.ndarray:
    """X_scfm of a pretrained checkpoint, by scfm-embed, kept for other seeds."""
    path = bench.output / "embedded" / f"{name}-{checkpoint.parents[1].name}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        source, target = path.with_suffix(".in.h5ad"), path.with_suffix(".out.h5ad")
        cells.write_h5ad(source)
        call(["embed", f"init_from={checkpoint}", f"input={source}", f"output={target}", "trainer.accelerator=cpu",
              "trainer.enable_progress_bar=false", "overwrite=true", "max_dropped=1"])  # fmt: skip
        np.save(path, ad.read_h5ad(target).obsm["X_scfm"])
        source.unlink(), target.unlink()
    return np.load(path)
