"""Types that were left out of training, told from those that were not."""

from functools import cache, partial

import numpy as np
from sets import CellSet

from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.methods.rivals import RIVALS
from scfm.metrics.annotation import false_positive_rate, risk_area, unknown_auroc
from tasks.bench import Bench, Measure, predicted, split_of

#: Rivals by the probability of their call.
METHODS = ("hvg", "pca", "nearest")


def rejection(bench: Bench, measure: Measure, one: CellSet, seed: int) -> None:
    """How novelty (the rivals: confidence) tells test cells of known types from a type left out of training.

    ``auroc``; ``fpr95``: the share of new cells kept where 95 % of the known ones are; ``aurc``: the mean error
    of the cells that are kept over all coverages, where a new cell is an error (Geifman & El-Yaniv 2017).
    """
    cells, name = bench.cells(one), one.name
    truth = cells.obs[one.truth].astype(str).to_numpy()
    classes, codes = np.unique(truth, return_inverse=True)
    left_out = classes[seed % len(classes)]
    known = truth != left_out
    kept = cells[known].copy()
    kept.obs["label"] = truth[known]
    run = f"{name}-{seed}"
    key = {"task": "rejection", "set": name, "setting": f"without {left_out}", "seed": seed}
    store = bench.store(run, kept, ["label"])
    whole = bench.store(f"{name}-all", cells, [one.label])
    folder = bench.output / "runs" / run

    def test() -> np.ndarray:
        return np.flatnonzero(np.isin(cells.obs_names, kept.obs_names[split_of(folder, kept.obs_names)["test"]]))

    def scores(sure: np.ndarray, rows: np.ndarray, called: np.ndarray) -> dict[str, float]:
        right = known[rows] & (called == truth[rows])
        return {
            "auroc": unknown_auroc(sure, known[rows]),
            "fpr95": false_positive_rate(sure, known[rows]),
            "aurc": risk_area(sure, right),
        }

    def judged() -> np.ndarray:
        return np.concatenate([test(), np.flatnonzero(~known)])

    def ours() -> dict[str, float]:
        bench.finetune(run, "annotation_classifier", store, seed)
        outputs, head = predicted(folder, whole)
        obs, rows = head.write(outputs).obs, judged()
        return scores(-obs["scfm_label_novelty"][rows], rows, obs["scfm_label_guess"][rows])

    def theirs(title: str) -> dict[str, float]:
        train, rows, rival = np.setdiff1d(np.flatnonzero(known), test()), judged(), RIVALS[title]
        values = rival.read(expression(), seed)(train)
        seen, probabilities = rival.model(values[train], codes[train], values[rows])
        return scores(probabilities.max(axis=1), rows, classes[seen[probabilities.argmax(axis=1)]])

    expression = cache(lambda: read_expression(cells))
    measure({**key, "method": "scfm, fine-tuned", "role": "ours"}, ours)
    for title in METHODS:
        measure({**key, "method": RIVALS[title].title, "role": "rival"}, partial(theirs, title))
