"""Predicted changes of expression against those that were measured."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def shift_scores(
    predicted: np.ndarray, measured: np.ndarray, common: np.ndarray | None = None, n_top: int = 50
) -> dict[str, float]:
    """How well a change of the mean expression was predicted.

    Args:
        predicted: (G,).
        measured: (G,).
        common: (G,) the mean change of the training groups, which all perturbations share in part.
        n_top: genes of the largest measured change.

    Returns:
        ``pearson`` over all genes, ``pearson_top`` over the top ones, ``mse``, ``direction_top20``: share of the 20
        genes of largest change whose sign is right; with ``common``, ``pearson_residual``: after subtracting it from
        both. A prediction without spread has a correlation of 0.
    """
    order = np.argsort(-np.abs(measured), kind="stable")
    top, few = order[:n_top], order[:20]
    found = {
        "pearson": _pearson(predicted, measured),
        "pearson_top": _pearson(predicted[top], measured[top]),
        "mse": float(((predicted - measured) ** 2).mean()),
        "direction_top20": float((np.sign(predicted[few]) == np.sign(measured[few])).mean()),
    }
    if common is not None:
        found["pearson_residual"] = _pearson(predicted - common, measured - common)
    return found


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float(a @ b / size) if size > 1e-12 else 0.0


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ (Székely & Rizzo 2013), without a cell's distance to itself.

    Args:
        x: (n, G) cells, at least two.
        y: (m, G) cells, at least two.
    """
    n, m = len(x), len(y)
    own = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    return float(2 * cdist(x, y).mean() - own)
