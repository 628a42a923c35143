"""Cells of two modalities in one space."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from omegaconf import OmegaConf
from sets import CellSet

from scfm.checkpoint import read
from scfm.config import build
from scfm.evaluation.alignment import CCA, HEAD, SHUFFLED, compare_alignment
from scfm.inference.load import restore_predictor
from scfm.inference.predict import predictions
from scfm.store.token_store import TokenStore
from tasks.bench import Bench, Measure, call


def alignment(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Pairs that find each other, and labels carried from genes to peaks, on test cells; a seed is a new split."""
    name, label = one.name, str(one.label)
    source = bench.data / f"{one.files[0]}.h5mu"
    store = bench.output / "stores" / name
    if not store.exists():
        call(["prepare", f"input={source}", f"output={store}", f"obs=[{label}]", "side.peaks=auto",
              "keep_counts=true", "workers=1", f"init_from={bench.checkpoint}"])  # fmt: skip
    run = f"{name}-{seed}"
    folder = bench.output / "runs" / run
    key = {"task": "alignment", "set": name, "setting": "test cells", "seed": seed}
    tables: dict[str, Any] = {}

    def scores(method: str) -> dict[str, float]:
        if not tables:
            if not (folder / "checkpoints/best.ckpt").is_file():
                bench.finetune(run, "multimodal_clip", store, seed)
            tables["scores"] = compare(folder, store)
        return dict(tables["scores"].loc[method])

    for method, shown in ((HEAD, "scfm, multimodal/clip"), (CCA, CCA), (SHUFFLED, SHUFFLED)):
        measure({**key, "method": shown}, lambda method=method: scores(method))  # type: ignore[misc]
    measure({**key, "method": "largest class"}, lambda: {f"{label} carried over": majority(source, label)})


def compare(folder: Path, store: Path) -> pd.DataFrame:
    """The table of a fine-tune's report, on its test cells."""
    module = restore_predictor(read(folder / "checkpoints/best.ckpt"))
    data = build(OmegaConf.load(folder / "config.yaml").data, TokenStore.open(store))
    data = data.planned(module.task.requirements())
    parts = [predictions(module, data, rows) for rows in (data.split.train, data.split.test)]
    shared = {name: np.concatenate([part[name] for part in parts]) for name in ("shared", "shared_other")}
    return compare_alignment(module.task, data, data.split.test, shared)


def majority(source: Path, label: str) -> float:
    """Share of the largest class."""
    with h5py.File(source) as file:
        cells = read_elem(file["mod/rna"])
    return float(cells.obs[label].value_counts(normalize=True).max())
