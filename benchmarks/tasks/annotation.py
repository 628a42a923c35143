"""Cell types beside logistic regression, nearest neighbors, probes of the backbone."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from sets import CellSet
from sklearn.decomposition import PCA

from scfm.evaluation.methods.expression import Expression, read_expression
from scfm.evaluation.methods.probes import linear, majority
from scfm.evaluation.methods.rivals import RIVALS
from scfm.metrics.classification import accuracy, confusion, macro_f1
from tasks.bench import Bench, Measure, embedded, split_of

#: Experiments that name cell types.
HEADS = ("annotation_classifier", "annotation_prototype")


def annotation(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Macro-F1 on test cells, with all labels of the other cells and with 10 % of them (at least two a class)."""
    cells, name = bench.cells(one), one.name
    truth = cells.obs[one.truth].astype(str).to_numpy()
    classes, codes = np.unique(truth, return_inverse=True)
    columns = ["label"] + ([one.group] if one.group else [])
    more = [f"group={one.group}"] if one.group else []
    parts: dict[str, np.ndarray] = {}
    for share in one.settings:
        key = {"task": "annotation", "set": name, "setting": f"{share:.0%} of labels", "seed": seed}
        run = f"{name}-{share:g}-{seed}"
        known = _labeled(codes, parts["test"], share, seed) if share < 1 else np.ones(len(codes), dtype=bool)
        cells.obs["label"] = np.where(known, truth, None)
        store = bench.store(run, cells, columns, *more)
        for experiment in HEADS:
            for end, role in (("", "ours"), (", random backbone", "ablation")):
                start = bench.untrained if end else bench.checkpoint
                folder = bench.output / "runs" / f"{run}-{experiment}{end and '-random'}"

                def ours(
                    store: Path = store, folder: Path = folder, experiment: str = experiment, start: Path = start
                ) -> dict[str, float]:
                    bench.finetune(folder.name, experiment, store, seed, checkpoint=start)
                    found = json.loads((folder / "metrics.json").read_text())
                    return {"macro_f1": found["test/macro_f1"], "accuracy": found["test/accuracy"]}

                title = f"scfm, {experiment.removeprefix('annotation_')}{end}"
                measure({**key, "method": title, "role": role}, ours)
                parts = split_of(folder, cells.obs_names)
        train = np.concatenate([rows for part, rows in parts.items() if part != "test"])
        train, test = np.sort(train[known[train]]), parts["test"]
        for method, (features, model, role) in _others(bench, name, cells, seed).items():

            def theirs(
                features: Any = features, model: Any = model, train: np.ndarray = train, test: np.ndarray = test
            ) -> dict[str, float]:
                values = features(train)
                seen, probabilities = model(values[train], codes[train], values[test])
                table = confusion(codes[test], seen[probabilities.argmax(1)], len(classes))
                return {"macro_f1": macro_f1(table), "accuracy": accuracy(table)}

            measure({**key, "method": method, "role": role}, theirs)


def _labeled(codes: np.ndarray, test: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(B,) bool: the test cells, and of the others a share of each class, at least two cells."""
    rng, known = np.random.default_rng(seed), np.zeros(len(codes), dtype=bool)
    known[test] = True
    rest = np.setdiff1d(np.arange(len(codes)), test)
    for code in np.unique(codes):
        own = rng.permutation(rest[codes[rest] == code])
        known[own[: max(2, round(share * len(own)))]] = True
    return known


def _others(bench: Bench, name: str, cells: ad.AnnData, seed: int) -> dict[str, tuple[Any, Any, str]]:
    """Features, model and role of what stands beside the heads."""
    expression = read_expression(cells)
    rivals = {rival.title: (rival.read(expression, seed), rival.model, "rival") for rival in RIVALS.values()}
    return {
        **rivals,
        "logistic regression, 64 PCs of all genes": (lambda train: _components(expression, train), linear, "rival"),
        "frozen backbone, linear probe": (
            lambda train: embedded(bench, name, cells, bench.checkpoint),
            linear,
            "ablation",
        ),
        "random backbone, linear probe": (
            lambda train: embedded(bench, name, cells, bench.untrained),
            linear,
            "ablation",
        ),
        "majority class": (lambda train: np.zeros((cells.n_obs, 1)), majority, "control"),
    }


def _components(expression: Expression, train: np.ndarray, size: int = 64) -> np.ndarray:
    values = expression.values.astype(np.float64)
    return PCA(size, svd_solver="arpack", random_state=0).fit(values[train]).transform(values)
