"""How well cells were named: scores, intervals over groups, rejection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scfm.metrics import classification as score

METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "macro_f1": lambda table: macro_f1(table),
    "accuracy": score.accuracy,
    "balanced_accuracy": score.balanced_accuracy,
}


@dataclass(frozen=True)
class Calls:
    """What a method said of each cell.

    Attributes:
        codes: (B,) int64 class codes; -1 where it said unknown.
        confidence: (B,) float64 probability of the called class, in [0, 1].
        rows: (B,) int64, which cells these are.
    """

    codes: np.ndarray
    confidence: np.ndarray
    rows: np.ndarray


def call_table(truth: np.ndarray, called: np.ndarray, n_classes: int, weight: np.ndarray | None = None) -> np.ndarray:
    """(C+1, C+1) cells of true class ``row`` called ``column``; the last column holds the unknown (-1) calls.

    Args:
        truth: (B,) codes, none missing.
        called: (B,) codes, -1 for unknown.
        n_classes: C.
        weight: (B,) of each cell; None for 1.

    Returns:
        The table, float64.
    """
    size = n_classes + 1
    pairs = truth.astype(np.int64) * size + np.where(called < 0, n_classes, called)
    return np.bincount(pairs, weights=weight, minlength=size**2).reshape(size, size).astype(np.float64)


def macro_f1(table: np.ndarray) -> float:
    """Mean F1 over the classes of :func:`call_table`; unknown calls cost recall, but are no class of their own."""
    values = score.class_f1(table)[:-1]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def annotation_scores(truth: np.ndarray, calls: Calls, n_classes: int) -> dict[str, float]:
    """Scores of calls against the truth.

    Args:
        truth: (B,) codes of all cells.
        calls: of some of them, each with a known truth.
        n_classes: C.

    Returns:
        ``macro_f1, accuracy, balanced_accuracy`` (unknown counts as wrong), ``coverage`` and ``ece`` over the cells
        that were named, ``n_cells``.
    """
    true = truth[calls.rows]
    table = call_table(true, calls.codes, n_classes)
    named = calls.codes >= 0
    error = score.calibration_error(calls.confidence[named], (calls.codes == true)[named])
    scores = {name: metric(table) for name, metric in METRICS.items()}
    return {**scores, "coverage": float(named.mean()), "ece": error, "n_cells": float(len(true))}


def bootstrap(
    truth: np.ndarray,
    calls: Calls,
    groups: np.ndarray | None,
    n_classes: int,
    *,
    metric: str = "macro_f1",
    n_draws: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """A metric on resampled groups: cells of one donor are not independent, donors are.

    Args:
        truth: (B,) codes of all cells.
        calls: of some of them.
        groups: (B,) of all cells; None, or one group that holds all of the called cells, resamples single cells.
        n_classes: C.
        metric: one of ``METRICS``.
        n_draws: resamples. The same seed draws the same groups, so that two methods can be compared draw by draw.
        seed: of the draws.

    Returns:
        (n_draws,) values; their 2.5 and 97.5 % quantiles are the interval.
    """
    order = np.argsort(calls.rows, kind="stable")
    rows, called = calls.rows[order], calls.codes[order]
    owner = np.zeros(len(rows), dtype=np.int64) if groups is None else np.unique(groups[rows], return_inverse=True)[1]
    if owner.max() == 0:
        owner = np.arange(len(rows))
    n_groups = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_draws):
        weight = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[owner]
        values.append(METRICS[metric](call_table(truth[rows], called, n_classes, weight)))
    return np.array(values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap values."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def rejection_curve(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Accuracy of the cells that are kept when the least sure are left unnamed.

    Args:
        confidence: (B,).
        correct: (B,) bool.

    Returns:
        (B, 2): coverage, from 1/B to 1, and accuracy at it.
    """
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    return np.column_stack([kept / len(order), np.cumsum(correct[order]) / kept])


def unknown_auroc(confidence: np.ndarray, known: np.ndarray) -> float:
    """How well confidence tells known types from new ones: P(known > new), ties half; NaN without both."""
    from scipy.stats import rankdata

    n_known, n_new = int(known.sum()), int((~known).sum())
    if n_known == 0 or n_new == 0:
        return float("nan")
    rank_sum = rankdata(confidence)[known].sum()
    return float((rank_sum - n_known * (n_known + 1) / 2) / (n_known * n_new))


def false_positive_rate(confidence: np.ndarray, known: np.ndarray, recall: float = 0.95) -> float:
    """Share of new cells that are kept by the threshold that keeps a share of the known ones; NaN without both.

    Args:
        confidence: (B,).
        known: (B,) bool, False for cells of types that were not trained on.
        recall: of the known cells.
    """
    if known.all() or not known.any():
        return float("nan")
    threshold = np.quantile(confidence[known], 1 - recall, method="lower")
    return float((confidence[~known] >= threshold).mean())


def risk_area(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean share of errors among the cells that are kept, over all coverages (AURC, Geifman & El-Yaniv 2017).

    Args:
        confidence: (B,) in the order of which cells are kept.
        correct: (B,) bool; a cell of a type that was not trained on is an error.
    """
    return float(1 - rejection_curve(confidence, correct)[:, 1].mean())
