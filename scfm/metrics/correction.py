"""Whether integration removed too little, or too much: what one total score hides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scfm.metrics.integration import nmi_ari
from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.neighbors import find_neighbors
from scfm.metrics.structure import neighbor_overlap

#: Fewer cells of a group inside a type than this are not told apart by a probe.
FEWEST = 10

EXPLAINED = {
    "batch_auc": "how well a linear probe names the batch inside a type: 0.5 is mixed, 1 is under-corrected, less than "
    "0.5 means that the means of batches were set equal",
    "condition_auc": "the same for the condition, an effect inside types that should stay: compare with PCA",
    "lone_purity": "share of own type among the 15 neighbors of types that one batch alone has: falls with "
    "over-correction",
    "finer_ari": "agreement of k-means with finer labels than the embedding was made for",
    "kept_neighbors": "share of a cell's 30 nearest cells of its own batch that it has in PCA too",
    "kept_unfitted": "the same, against the backbone as it was before fine-tuning",
    "pseudo_kept": "the same in one batch that was cut at random into three pseudo-batches and integrated: nothing "
    "should move",
}


def probe_auc(embedding: np.ndarray, groups: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """How well a linear probe tells groups apart inside each type.

    Args:
        embedding: (B, D).
        groups: (B,) batches or conditions, any values; empty names do not count.
        labels: (B,) types, any values.
        seed: of the three folds.

    Returns:
        Mean over the types that have at least two groups of ten cells of the one-against-rest AUC of cross-validated
        calls; NaN where there is no such type.
    """
    values = []
    for label in np.unique(labels):
        own = np.flatnonzero((labels == label) & (groups != ""))
        names, counts = np.unique(groups[own], return_counts=True)
        own = own[np.isin(groups[own], names[counts >= FEWEST])]
        if (counts >= FEWEST).sum() > 1:
            values.append(_auc(embedding[own], to_codes(groups[own]), seed))
    return float(np.mean(values)) if values else float("nan")


def _auc(values: np.ndarray, codes: np.ndarray, seed: int) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, class_weight="balanced"))
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    sure = cross_val_predict(model, values, codes, cv=folds, method="predict_proba")
    return float(np.mean([roc_auc_score(codes == code, sure[:, code]) for code in range(sure.shape[1])]))


def lone_purity(embedding: np.ndarray, labels: np.ndarray, batch: np.ndarray, k: int = 15) -> float:
    """Purity of the neighborhoods of types that a single batch has: forced mixing drowns them in other types.

    Args:
        embedding: (B, D).
        labels: (B,) types, any values.
        batch: (B,) any values.
        k: neighbors, the cell itself not counted.

    Returns:
        Mean over these types of the share of own type; NaN where every type is in two batches.
    """
    near = find_neighbors(embedding, k + 1).indices[:, 1:]
    lone = [name for name in np.unique(labels) if len(np.unique(batch[labels == name])) == 1]
    shares = [(labels[near[labels == name]] == name).mean() for name in lone]
    return float(np.mean(shares)) if shares else float("nan")


def finer_ari(embedding: np.ndarray, finer: np.ndarray, seed: int = 0) -> float:
    """ARI of k-means with labels finer than those that were trained on; cells without one do not count."""
    known = finer != ""
    return nmi_ari(embedding[known], to_codes(finer[known]), seed)[1]


def correction_scores(
    embeddings: Mapping[str, np.ndarray],
    labels: np.ndarray,
    batch: np.ndarray,
    *,
    condition: np.ndarray | None = None,
    finer: np.ndarray | None = None,
    unfitted: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of over- and under-correction.

    Args:
        embeddings: (B, D) by name, PCA among them.
        labels: (B,) names of types.
        batch: (B,) names.
        condition: (B,) names, empty where missing; None leaves its column out.
        finer: (B,) names of subtypes, empty where missing; None leaves its column out.
        unfitted: (B, D) of the backbone before fine-tuning; None leaves its column out.
        seed: of folds and k-means.

    Returns:
        Embeddings × the metrics of ``EXPLAINED``; columns without any number are left out.
    """
    rows = {}
    for name, values in embeddings.items():
        scores = {
            "batch_auc": probe_auc(values, batch, labels, seed),
            "lone_purity": lone_purity(values, labels, batch),
            "kept_neighbors": neighbor_overlap(embeddings["PCA"], values, batch),
        }
        if condition is not None:
            scores["condition_auc"] = probe_auc(values, condition, labels, seed)
        if finer is not None:
            scores["finer_ari"] = finer_ari(values, finer, seed)
        if unfitted is not None:
            scores["kept_unfitted"] = neighbor_overlap(unfitted, values, batch)
        rows[name] = scores
    return pd.DataFrame.from_dict(rows, orient="index").dropna(axis=1, how="all")
