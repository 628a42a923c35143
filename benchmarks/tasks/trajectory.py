"""Stages of development, learned from stages."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sets import CellSet
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor

from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.trajectory import stage_predictions
from scfm.metrics.trajectory import concordance
from tasks.bench import Bench, Measure, predicted, split_of

EXPERIMENTS = {"trajectory_ordinal": "scfm ordinal", "trajectory_time": "scfm time"}


def trajectory(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """Agreement of predicted and true stage on test cells.

    ``concordance`` asks for no order inside a stage and decides; a stage is a category, so calls and numbers are apart.
    """
    cells, name = bench.cells(one), one.name
    rank = cells.obs[one.truth].to_numpy(dtype=float)
    cells.obs["stage"] = [f"{value:g}" for value in rank]
    store = bench.store(name, cells, ["stage", one.truth], f"genes.species={one.species}")
    key = {"task": "trajectory", "set": name, "setting": "test cells", "seed": seed}
    runs = [(experiment, end) for experiment in EXPERIMENTS for end in ("", ", random backbone")]
    for experiment, end in runs:
        folder = bench.output / "runs" / f"{name}-{experiment}-{seed}{end and '-random'}"
        start = bench.untrained if end else bench.checkpoint

        def ours(experiment: str = experiment, folder: Path = folder, start: Path = start) -> dict[str, float]:
            bench.finetune(folder.name, experiment, store, seed, checkpoint=start)
            test, outputs = split_of(folder, cells.obs_names)["test"], predicted(folder, store)[0]
            called = outputs["stage"] if "stage" in outputs else np.round(outputs["time"].clip(rank.min(), rank.max()))
            return _ordered(outputs["pseudotime"][test], called[test], rank[test])

        measure({**key, "method": EXPERIMENTS[experiment] + end, "role": "ablation" if end else "ours"}, ours)
    parts = split_of(bench.output / "runs" / f"{name}-trajectory_ordinal-{seed}", cells.obs_names)
    train, test = np.sort(np.concatenate([rows for part, rows in parts.items() if part != "test"])), parts["test"]
    values = read_expression(cells).principal_components(train)
    rivals = {"ridge on PCA": RidgeCV(np.logspace(-2, 6, 17)), "15 nearest on PCA": KNeighborsRegressor(15)}
    for method, model in rivals.items():

        def theirs(model: Any = model) -> dict[str, float]:
            found = model.fit(values[train], rank[train]).predict(values[test])
            return _ordered(found, np.round(found.clip(rank.min(), rank.max())), rank[test])

        measure({**key, "method": method, "role": "rival"}, theirs)

    def stages() -> dict[str, float]:
        found = stage_predictions(values, rank, [(train, test)])[test]
        return _ordered(found, np.round(found), rank[test])

    measure({**key, "method": "logistic regression over stages on PCA", "role": "rival"}, stages)
    perfect = {**key, "method": "the truth, ties broken at random", "role": "control"}
    measure(perfect, lambda: _untied(rank[test], seed))


def _untied(truth: np.ndarray, seed: int) -> dict[str, float]:
    """What a number without ties can reach at most: stages in perfect order, cells of a stage in a random one."""
    return _ordered(truth + np.random.default_rng(seed).uniform(0, 1e-3, len(truth)), truth, truth)


def _ordered(number: np.ndarray, called: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {
        "concordance": concordance(number, truth),
        "spearman of the stage called": float(spearmanr(called, truth).statistic),
        "spearman of the number": float(spearmanr(number, truth).statistic),
    }
