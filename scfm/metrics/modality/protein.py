"""How well proteins are predicted, protein by protein."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def protein_scores(
    truth: np.ndarray,
    predicted: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    sd: np.ndarray,
    groups: np.ndarray,
) -> dict[str, np.ndarray]:
    """Scores of each protein over the cells that have it.

    Args:
        truth: (n, P), NaN where not measured.
        predicted: (n, P).
        low: (n, P) lower ends of intervals; None where there are none.
        high: (n, P) upper ends.
        sd: (P,) unit of the error.
        groups: (n,) type of each cell, -1 where unknown.

    Returns:
        (P,) each: ``r`` (Pearson), ``spearman``, ``rmse`` in units of sd, ``within_r`` (r after the mean of each type
        was subtracted from both; variance between types makes all methods look good), and ``coverage`` where there are
        intervals. NaN where a protein has fewer than three cells or does not vary.
    """
    names = ["r", "spearman", "rmse", "within_r", *([] if low is None else ["coverage"])]
    table = {name: np.full(truth.shape[1], np.nan) for name in names}
    for protein in range(truth.shape[1]):
        known = np.isfinite(truth[:, protein]) & np.isfinite(predicted[:, protein])
        if known.sum() < 3:
            continue
        y, x = truth[known, protein].astype(np.float64), predicted[known, protein].astype(np.float64)
        table["r"][protein] = pearson(y, x)
        table["spearman"][protein] = pearson(rankdata(y), rankdata(x))
        table["rmse"][protein] = np.sqrt(((y - x) ** 2).mean()) / sd[protein]
        kind = groups[known]
        inside = kind >= 0
        table["within_r"][protein] = pearson(
            center_groups(y[inside], kind[inside]), center_groups(x[inside], kind[inside])
        )
        if low is not None and high is not None:
            covered = (y >= low[known, protein]) & (y <= high[known, protein])
            table["coverage"][protein] = covered.mean()
    return table


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN for fewer than three values, or where one of the two does not vary."""
    if len(x) < 3 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def center_groups(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values less the mean of their group, (n,)."""
    _, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member, weights=values)
    return values - (sums / np.bincount(member).clip(min=1))[member]
