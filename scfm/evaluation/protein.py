"""Proteins predicted from genes by simple methods, beside a head."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scfm.data.module import CellData
from scfm.head.block_ridge import RidgeChoice, choose_ridge, fit_ridge
from scfm.head.multimodal.protein import Protein
from scfm.head.variable_components import VariableComponents
from scfm.inference.predict import targets
from scfm.metrics.modality.protein import protein_scores

RIDGE, NEAREST, DEPTH = "ridge on 50 PCs", "15 nearest on 50 PCs", "ridge on library size"
RIVALS = (RIDGE, NEAREST, DEPTH)
#: Neighbors whose mean is the prediction, and components.
N_NEIGHBORS, N_COMPONENTS = 15, 50
HEAD = "scfm, this head"


def predict_proteins(
    method: str, components: np.ndarray, depth: np.ndarray, truth: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """(n, P) proteins of all cells by a simple method.

    Args:
        method: one of :data:`RIVALS`.
        components: (n, 50) principal components of expression, fitted on training cells.
        depth: (n,) logarithm of the cells' counts.
        truth: (n, P), NaN where not measured.
        train: places of the training cells.
    """
    learned = truth[train]
    mean = np.nanmean(learned, axis=0)
    if method == NEAREST:
        return _nearest(components, learned, train, mean)
    values = components if method == RIDGE else depth[:, None]
    scaled = (values - values[train].mean(axis=0)) / max(float(values[train].std()), 1e-12)
    blocks = (scaled.shape[1],)
    sd = np.nanstd(learned, axis=0).clip(min=1e-9)
    standard = (learned - mean) / sd
    choice = RidgeChoice((1.0,), choose_ridge(scaled[train], standard, blocks).penalties)
    weight, bias = fit_ridge(scaled[train], standard, choice, blocks)
    return (scaled @ weight.T + bias) * sd + mean


def _nearest(components: np.ndarray, learned: np.ndarray, train: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Means over the nearest training cells that have the protein."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(train))).fit(components[train])
    near = learned[found.kneighbors(components, return_distance=False)]
    known = np.isfinite(near)
    total, n = np.where(known, near, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(n > 0, total / n.clip(min=1), mean)


def compare_proteins(head: Protein, data: CellData, judged: np.ndarray, outputs: dict[str, np.ndarray]) -> pd.DataFrame:
    """Scores of a head and of the simple methods on the same held-out cells, each protein alone.

    The simple methods learn from all other cells, as the head does at last.

    Args:
        head: trained.
        data: the store and its split.
        judged: (n,) rows of the held-out cells.
        outputs: what the head predicts for them.

    Returns:
        A row for each method and protein: ``method``, ``protein``, ``r``, ``spearman``, ``rmse``, ``within_r``,
        ``coverage``.
    """
    train = np.setdiff1d(np.concatenate([data.split.train, data.split.val, data.split.calibration]), judged)
    rows = np.concatenate([train, judged])
    truth = head.observed(targets(data, rows)).astype(np.float64)
    components, depth = _components(data, rows, len(train))
    sd = head.panel.sd.cpu().numpy()
    groups = head.groups(outputs, targets(data, judged))
    own = protein_scores(truth[len(train) :], outputs["protein"], outputs["low"], outputs["high"], sd=sd, groups=groups)
    tables = {HEAD: own}
    for method in RIVALS:
        found = predict_proteins(method, components, depth, truth, np.arange(len(train)))[len(train) :]
        tables[method] = protein_scores(truth[len(train) :], found, sd=sd, groups=groups)
    frames = [
        pd.DataFrame({"method": method, "protein": list(head.names), **table}) for method, table in tables.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _components(data: CellData, rows: np.ndarray, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of variable genes (n, 50), fitted on the first cells, and the log of the tokens' counts."""
    fitted = VariableComponents(data.store.vocab, N_COMPONENTS)
    tokens = data.store.gather(rows)
    counts = data.store.counts(rows) if data.store.has_counts else np.ones(len(tokens.values), dtype=np.float32)
    values = fitted.expression(tokens, counts)
    fitted.fit(values[:n_train])
    depth = np.log1p(np.add.reduceat(counts, tokens.offsets[:-1]))
    return fitted.transform(tokens, counts).astype(np.float64), depth.astype(np.float64)


def average_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Means over proteins and the median r, a row for each method, in the order of the table."""
    scores = [name for name in table.columns if name not in ("method", "protein")]
    means = table.groupby("method", sort=False)[scores].mean()
    means.insert(1, "median r", table.groupby("method", sort=False)["r"].median())
    return means
