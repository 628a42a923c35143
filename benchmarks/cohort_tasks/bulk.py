"""An outcome of bulk samples on cohorts left out: the head, and logistic regression on genes."""

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from tasks.bench import FINETUNE, Bench, Measure, call

from cohort_tasks.base import Set, read
from cohort_tasks.phenotype import linear
from scfm.checkpoint import read as read_checkpoint
from scfm.inference.load import restore_predictor
from scfm.metrics.samples import auc

#: Genes of inflammation whose mean z is the simplest signature.
SIGNATURE = ("CXCL9", "CXCL10", "IDO1", "IFNG", "HLA-DRA", "STAT1", "CD8A", "GZMA", "PRF1", "CD274")


def bulk(bench: Bench, measure: Measure, name: str, one: Set, seed: int) -> None:
    """Mean AUC over cohorts left out."""
    samples = read(bench, one)
    samples = samples[samples.obs[one.label].isin(["R", "NR"])].copy()
    key = {"task": "bulk", "set": name, "setting": f"{samples.n_obs} samples, cohorts left out", "seed": seed}

    def ours() -> dict[str, float]:
        given = linear(samples.copy())
        store = bench.store(name, given, [one.label, one.group], "counts=decimals_ok")
        folder = bench.output / "runs" / f"{name}-{seed}"
        call(["finetune", "experiment=phenotype_bulk", f"init_from={bench.checkpoint}", f"store={store}",
              f"output={folder}", f"head.label={one.label}", f"head.cohort={one.group}", "data.val=0.0",
              "metric=train/loss", "callbacks.early_stopping=null", f"head.seed={seed}", *FINETUNE])  # fmt: skip
        judged = restore_predictor(read_checkpoint(folder / "checkpoints/last.ckpt")).task.judged
        return {"auc": float(judged[0]), "p": float(judged[1])}

    values = samples.X.toarray() if hasattr(samples.X, "toarray") else np.asarray(samples.X)
    truth, cohorts = (samples.obs[one.label] == "R").to_numpy(), samples.obs[one.group].astype(str).to_numpy()
    scaled = np.zeros_like(values)
    for code in np.unique(cohorts):
        own = cohorts == code
        scaled[own] = (values[own] - values[own].mean(axis=0)) / np.maximum(values[own].std(axis=0), 1e-6)

    def genes() -> dict[str, float]:
        found = []
        for code in np.unique(cohorts):
            held = cohorts == code
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=1e-4, class_weight="balanced", max_iter=300)
                model.fit(scaled[~held], truth[~held])
            found.append(auc(truth[held], model.decision_function(scaled[held])))
        return {"auc": float(np.mean(found))}

    def signature() -> dict[str, float]:
        columns = [place for place, gene in enumerate(samples.var_names) if gene in SIGNATURE]
        score = scaled[:, columns].mean(axis=1)
        return {"auc": float(np.mean([auc(truth[cohorts == c], score[cohorts == c]) for c in np.unique(cohorts)]))}

    for method, function in (("scfm, phenotype_bulk", ours), ("L2 logistic regression, genes", genes),
                             ("mean of ten inflammation genes", signature)):  # fmt: skip
        measure({**key, "method": method}, function)
