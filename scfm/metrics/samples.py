"""Scores of predictions for samples (donors), of which there are few."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; equal scores count half. NaN where one class is missing.

    Args:
        truth: (n,) bool.
        score: (n,).

    Example:
        >>> auc(np.array([False, True, True]), np.array([0.1, 0.1, 0.9]))
        0.75
    """
    truth = np.asarray(truth, dtype=bool)
    n_true, n_false = int(truth.sum()), int((~truth).sum())
    if not n_true or not n_false:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[truth].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def mean_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """AUC of the second of two classes, or the mean one-against-rest AUC of more.

    Args:
        truth: (n,) codes.
        probabilities: (n, C).
    """
    if probabilities.shape[1] == 2:
        return auc(truth == 1, probabilities[:, 1])
    each = [auc(truth == code, probabilities[:, code]) for code in range(probabilities.shape[1])]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def sample_scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """``auc``, ``balanced_accuracy`` and ``brier`` (mean squared error summed over classes, halved).

    Args:
        truth: (n,) codes of the classes.
        probabilities: (n, C) summing to 1.
    """
    called = probabilities.argmax(axis=1)
    recall = [float((called[truth == code] == code).mean()) for code in np.unique(truth)]
    true = np.eye(probabilities.shape[1])[truth]
    return {
        "auc": mean_auc(truth, probabilities),
        "balanced_accuracy": float(np.mean(recall)),
        "brier": float(((probabilities - true) ** 2).sum(axis=1).mean() / 2),
    }


def concordance(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Harrell's C: of the pairs whose order of events is known, the share in which the earlier has the higher risk.

    Args:
        risk: (n,).
        time: (n,).
        event: (n,) 1 where the event was seen.

    Returns:
        0.5 for chance, NaN without a comparable pair.
    """
    earlier = (time[:, None] < time[None, :]) & (event[:, None] > 0)
    if not earlier.any():
        return float("nan")
    higher = (risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])
    return float(higher[earlier].mean())


def donor_interval(
    score: Callable[[np.ndarray], float], donors: np.ndarray, draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a score by resampling donors with all their samples.

    Args:
        score: of some samples (places, with repeats).
        donors: (n,) donor of each sample.
        draws: bootstrap samples.
        seed: of the draws.
    """
    codes, place = np.unique(donors, return_inverse=True)
    members = [np.flatnonzero(place == code) for code in range(len(codes))]
    rng = np.random.default_rng(seed)
    found = [score(np.concatenate([members[i] for i in rng.integers(0, len(codes), len(codes))])) for _ in range(draws)]
    kept = np.array(found)[np.isfinite(found)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)
