"""Types that were left out of training, told from those that were not."""

import numpy as np

from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.methods.probes import linear
from scfm.metrics.annotation import unknown_auroc
from tasks.bench import Bench, Measure, Set, predicted, split_of


def rejection(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """AUROC of novelty (the rival: confidence), test cells of known types against a type left out of training."""
    cells = bench.cells(one)
    truth = cells.obs[one.label].astype(str).to_numpy()
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

    def ours() -> dict[str, float]:
        bench.finetune(run, "annotation_classifier", store, seed)
        outputs, head = predicted(folder, whole)
        sure = -head.write(outputs).obs["scfm_label_novelty"]
        rows = np.concatenate([test(), np.flatnonzero(~known)])
        return {"auroc": unknown_auroc(sure[rows], known[rows])}

    def theirs() -> dict[str, float]:
        train = np.setdiff1d(np.flatnonzero(known), test())
        values = read_expression(cells).scaled(train)
        rows = np.concatenate([test(), np.flatnonzero(~known)])
        return {"auroc": unknown_auroc(linear(values[train], codes[train], values[rows])[1].max(1), known[rows])}

    measure({**key, "method": "scfm, fine-tuned"}, ours)
    measure({**key, "method": "logistic regression, 2000 HVGs"}, theirs)
