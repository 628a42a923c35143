"""Phenotypes of donors left out, by scfm-analyse analysis=phenotype, beside simple methods; the refits are its own."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from tasks.bench import Bench, Measure, call

from cohort_tasks.base import Set, read

#: Sample, types and further options of a set.
SMALL = ("analysis.width=16", "analysis.hidden=8", "analysis.steps=60")  # 201 refits of every fold
COLUMNS = {
    "melanoma": ("patient", "cell_type_fine", ["counts=decimals_ok"]),  # 18 donors, each left out
    "onek1k_sex": ("donor", "cell_type", ["analysis.repeats=1", "analysis.steps=30", "analysis.max_cells=64"]),
}
#: Sets that are measured as they are alone: no method may be above chance there.
CONTROLS = ("onek1k_sex",)


def phenotype(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """AUC of held-out donors with its interval and p; also with the means of types subtracted."""
    sample, types, more = COLUMNS[name]
    for setting, within in (("all", "false"), ("types subtracted", "true")):
        if name in CONTROLS and within == "true":
            continue
        folder = bench.output / "phenotype" / f"{name}-{within}-{seed}"

        def scores(folder: Path = folder, within: str = within) -> pd.DataFrame:
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                cells = folder.with_suffix(".h5ad")
                linear(read(bench, one)).write_h5ad(cells)
                call(["analyse", "analysis=phenotype", f"init_from={bench.checkpoint}", f"input={cells}",
                      f"output={folder}", f"analysis.label={one.label}", f"analysis.sample={sample}",
                      f"analysis.types={types}", f"analysis.within={within}", f"analysis.seed={seed}",
                      "max_dropped=1", *SMALL, *more])  # fmt: skip
                cells.unlink()
            return pd.read_csv(folder / "scores.csv").set_index("method")

        for method in scores().index:
            if within == "true" and method not in ("attention", "mean of the cells"):
                continue

            def row(method: str = method) -> dict[str, float]:
                found = scores().loc[method]
                return {key: float(found[key]) for key in ("auc", "low", "high", "p", "balanced_accuracy", "brier")}

            measure({"task": "phenotype", "set": name, "setting": setting, "method": method, "seed": seed}, row)


def linear(cells: ad.AnnData) -> ad.AnnData:
    """Values that are log2(TPM / 10 + 1) or log2(TPM + 0.001), brought back; counts as they are."""
    values = cells.X.toarray() if hasattr(cells.X, "toarray") else np.asarray(cells.X)
    if np.array_equal(values, np.rint(values)):
        return cells
    cells.X = np.maximum(np.exp2(values) - (0.001 if values.min() < 0 else 1.0), 0).astype(np.float32)
    return cells
