"""The response of a patient left out: the head beside no change, mean shift, nearest patient, and the ceiling."""

import anndata as ad
import numpy as np
from tasks.bench import FINETUNE, Bench, Measure, call

from cohort_tasks.base import Set, read
from scfm.metrics.shift import energy_distance, shift_scores


def shift(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Scores of δ, mean over patients left out; E-distance of shifted control cells to treated ones."""
    cells = read(bench, one)
    counts = cells.X.toarray().astype(np.float64)
    x = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    patients = cells.obs[one.group].astype(str).to_numpy()
    treated = (cells.obs[one.label] != "ctrl").to_numpy()
    codes = np.unique(patients)
    control = {p: x[(patients == p) & ~treated].mean(axis=0) for p in codes}
    delta = {p: x[(patients == p) & treated].mean(axis=0) - control[p] for p in codes}
    rng = np.random.default_rng(seed)

    def judged(predict) -> dict[str, float]:  # noqa: ANN001
        rows = []
        for patient in codes:
            others = [p for p in codes if p != patient]
            found = predict(patient, others)
            row = shift_scores(found, delta[patient], np.mean([delta[p] for p in others], axis=0))
            own = patients == patient
            row["energy"] = energy_distance(x[own & ~treated] + found, x[own & treated])
            rows.append(row)
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def nearest(patient: str, others: list[str]) -> np.ndarray:
        return delta[min(others, key=lambda p: float(((control[p] - control[patient]) ** 2).sum()))]

    def half(patient: str, others: list[str]) -> np.ndarray:
        rows = rng.permutation(np.flatnonzero((patients == patient) & treated))
        return x[rows[: len(rows) // 2]].mean(axis=0) - control[patient]

    def ours(patient: str, others: list[str]) -> np.ndarray:
        inside = cells[patients != patient].copy()
        store = bench.store(f"{name}-without-{patient}", inside, [one.label, one.group], f"group={one.group}")
        folder = bench.output / "runs" / f"{name}-{patient}-{seed}"
        call(["finetune", "experiment=perturbation_shift", f"init_from={bench.checkpoint}", f"store={store}",
              f"output={folder}", f"head.label={one.label}", f"head.group={one.group}", f"data.group={one.group}",
              "data.val=0.0", "metric=train/loss", "callbacks.early_stopping=null",
              "head.min_cells=10", *FINETUNE])  # fmt: skip
        source, target = folder / "controls.h5ad", folder / "out.h5ad"
        cells[(patients == patient) & ~treated].copy().write_h5ad(source)
        last = folder / "checkpoints/last.ckpt"
        call(["embed", f"init_from={last}", f"input={source}", f"output={target}", "trainer.accelerator=cpu",
              "trainer.enable_progress_bar=false", "overwrite=true", "max_dropped=1"])  # fmt: skip
        about = ad.read_h5ad(target).uns["scfm"]["X_scfm"]["head"]
        ids = cells.var["gene_id"].astype(str).to_numpy() if "gene_id" in cells.var else cells.var_names.to_numpy()
        place = {gene.partition(".")[0]: i for i, gene in enumerate(ids)}  # without the version of an Ensembl id
        found = np.mean([delta[p] for p in others], axis=0)  # genes that the model does not know
        for gene, value in zip(about["genes"], np.asarray(about["change"])[0], strict=True):
            if gene in place:
                found[place[gene]] = value
        return found

    methods = {
        "scfm, perturbation_shift": ours,
        "mean shift of the others": lambda patient, others: np.mean([delta[p] for p in others], axis=0),
        "shift of the nearest": nearest,
        "no change": lambda patient, others: np.zeros(x.shape[1]),
        "half of the treated cells (ceiling)": half,
    }
    for method, predict in methods.items():
        key = {"task": "shift", "set": name, "setting": "patients left out", "method": method, "seed": seed}
        measure(key, lambda predict=predict: judged(predict))
