"""Smaller models as a curve: size, speed, neighbors kept, and macro-F1 of a linear probe on the embedding."""

from pathlib import Path

import numpy as np
import pandas as pd
from tasks.bench import Bench, Measure, call, embedded

from cohort_tasks.base import Set, read
from scfm.evaluation.methods.probes import linear
from scfm.metrics.classification import confusion, macro_f1

#: Options of scfm-compress by name; the student is a quarter as wide.
WAYS: dict[str, tuple[str, ...]] = {
    "int8": ("int8=true",),
    "genes of 5 cells": ("min_cells=5",),
    "2 layers": ("layers=2",),
    "2 layers, half the columns": ("layers=2", "feedforward=128"),
    "student of half the width": ("width=64", "distill.steps=300"),
    "student of a quarter": ("width=32", "distill.steps=300"),
    "half the width from scratch": ("width=64", "distill.steps=300", "distill.alpha=1.0", "distill.beta=0.0"),
    "2 layers, genes of 5 cells, int8": ("layers=2", "min_cells=5", "int8=true"),
}


def compress(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Each way beside the whole model, on the same cells and folds."""
    cells = read(bench, one)
    codes = np.unique(cells.obs[one.label].astype(str), return_inverse=True)[1]
    store = bench.store(f"{name}-clusters", cells, [one.label])
    key = {"task": "compress", "set": name, "setting": "linear probe, 5 folds", "seed": seed}
    measure(
        {**key, "method": "whole model"}, lambda: _probe(embedded(bench, name, cells, bench.checkpoint), codes, seed)
    )
    for way, options in WAYS.items():
        path = (
            bench.output / "small" / f"{name}-{way.replace(' ', '_').replace(',', '')}-{seed}" / "checkpoints/last.ckpt"
        )

        def ours(options: tuple[str, ...] = options, path: Path = path) -> dict[str, float]:
            path.parent.mkdir(parents=True, exist_ok=True)
            call(["compress", f"init_from={bench.checkpoint}", f"store={store}", f"output={path}", "max_length=128",
                  f"seed={seed}", "max_cells=1000", "overwrite=true", *options])  # fmt: skip
            row = pd.read_csv(path.with_suffix(".csv")).iloc[-1]
            found = _probe(embedded(bench, f"{name}-{path.parents[1].name}", cells, path), codes, seed)
            numbers = {
                "parameters in thousands": row["parameters"] / 1e3, "megabytes": row["megabytes"],
                "cells per second": row["cells_per_second"], "neighbors kept": row["neighbor_overlap"],
            }  # fmt: skip
            return {**found, **{k: float(v) for k, v in numbers.items()}}

        measure({**key, "method": way}, ours)


def _probe(values: np.ndarray, codes: np.ndarray, seed: int) -> dict[str, float]:
    from sklearn.model_selection import StratifiedKFold

    called = np.zeros(len(codes), dtype=np.int64)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(values, codes):
        seen, probabilities = linear(values[train], codes[train], values[test])
        called[test] = seen[probabilities.argmax(1)]
    return {"macro_f1": macro_f1(confusion(codes, called, int(codes.max()) + 1))}
