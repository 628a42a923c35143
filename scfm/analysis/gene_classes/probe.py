"""Classifies genes by a linear probe, folds by gene, one score a gene."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from scfm.metrics.perturbation import auroc, bootstrap_interval

#: Inverse penalties that the training genes of a fold choose from.
PENALTIES = (0.001, 0.01, 0.1, 1.0)


def gene_folds(positive: np.ndarray, families: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(genes,) fold of each gene, stratified by class; a family is in one fold."""
    if len(np.unique(families)) == len(families):
        cut = StratifiedKFold(n, shuffle=True, random_state=seed).split(positive, positive)
    else:
        cut = StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(positive, positive, families)
    folds = np.zeros(len(positive), dtype=np.int64)
    for number, (_, test) in enumerate(cut):
        folds[test] = number
    return folds


def fold_scores(values: np.ndarray, gene: np.ndarray, positive: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """(genes,) out-of-fold probability of each gene: the mean over its rows.

    A gene weighs the same in training however many rows it has, and is never in training and test.

    Args:
        values: (rows, D) features, one row a gene or several.
        gene: (rows,) the gene of each row.
        positive: (genes,) bool.
        folds: (genes,) of :func:`gene_folds`.
        seed: of the inner split that chooses the penalty.
    """
    scores = np.full(len(positive), np.nan)
    weight = 1 / np.bincount(gene, minlength=len(positive))[gene]
    for fold in np.unique(folds):
        train = folds != fold
        inner = np.where(train, gene_folds_inside(positive, train, seed), -1)
        held = train & (inner == 0)
        best = max(PENALTIES, key=lambda c: _auroc(values, gene, weight, positive, train & ~held, held, c))
        scores[~train] = _fit_score(values, gene, weight, positive, train, ~train, best)
    return scores


def gene_folds_inside(positive: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """(genes,) three folds of the training genes, stratified; 0 elsewhere."""
    out = np.zeros(len(positive), dtype=np.int64)
    chosen = np.flatnonzero(train)
    cut = StratifiedKFold(3, shuffle=True, random_state=seed).split(chosen, positive[chosen])
    for number, (_, test) in enumerate(cut):
        out[chosen[test]] = number
    return out


def _auroc(
    values: np.ndarray, gene: np.ndarray, weight: np.ndarray, positive: np.ndarray, train: np.ndarray, test: np.ndarray,
    c: float,
) -> float:  # fmt: skip
    return float(roc_auc_score(positive[test], _fit_score(values, gene, weight, positive, train, test, c)))


def _fit_score(
    values: np.ndarray, gene: np.ndarray, weight: np.ndarray, positive: np.ndarray, train: np.ndarray, test: np.ndarray,
    c: float,
) -> np.ndarray:  # fmt: skip
    rows, others = train[gene], test[gene]
    scaler = StandardScaler().fit(values[rows], sample_weight=weight[rows])
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=500)
    model.fit(scaler.transform(values[rows]), positive[gene[rows]], sample_weight=weight[rows])
    p = model.predict_proba(scaler.transform(values[others]))[:, 1]
    total = np.bincount(gene[others], p, minlength=len(positive))
    return total[test] / np.bincount(gene[others], minlength=len(positive))[test]


def score_table(scores: pd.DataFrame, positive: np.ndarray, *, reference: str, draws: int, seed: int) -> pd.DataFrame:
    """AUROC with its interval, AUPRC beside the base rate, macro-F1, and the gain over a reference with its interval.

    Args:
        scores: genes x methods.
        positive: (genes,) bool.
        reference: the method that gains are counted from.
        draws: bootstrap samples of genes, those of each class among themselves; the same for both of a gain.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    drawn = [np.r_[rng.choice(yes, len(yes)), rng.choice(no, len(no))] for _ in range(draws)]
    base = scores[reference].to_numpy()
    rows = []
    for name in scores:
        own = scores[name].to_numpy()
        low, high = bootstrap_interval(own, positive, draws=draws, seed=seed)
        gains = [auroc(own[i], positive[i]) - auroc(base[i], positive[i]) for i in drawn]
        gain_low, gain_high = np.quantile(gains, [0.025, 0.975])
        rows.append(
            {
                "method": name,
                "auroc": auroc(own, positive),
                "auroc_low": low,
                "auroc_high": high,
                "auprc": float(average_precision_score(positive, own)),
                "base_rate": float(positive.mean()),
                "macro_f1": float(f1_score(positive, own >= 0.5, average="macro")),
                "gain": auroc(own, positive) - auroc(base, positive),
                "gain_low": float(gain_low),
                "gain_high": float(gain_high),
            }
        )
    return pd.DataFrame(rows)
