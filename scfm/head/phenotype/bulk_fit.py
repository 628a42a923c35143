"""Ridge logistic regression over cohorts, its judgement on cohorts left out, and the way to cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from scfm.metrics.samples import auc

#: Share of a covariance that is replaced by its mean variance.
SHRINK = 0.3
#: Samples of a class, at least.
FEWEST = 5


@dataclass(frozen=True)
class BulkFit:
    """A regression of bulk samples.

    Attributes:
        weight, bias: of the states, centered in their cohorts.
        center: (D,) mean of the cohorts' means.
        covariance: (D, D) of the centered states, shrunk.
        null: (K, D) weights of permuted outcomes.
        auc, p: of cohorts left out: the mean over cohorts, and its p by permutation inside cohorts.
    """

    weight: np.ndarray
    bias: float
    center: np.ndarray
    covariance: np.ndarray
    null: np.ndarray
    auc: float
    p: float


def fit_bulk(
    states: np.ndarray, truth: np.ndarray, cohorts: np.ndarray, *, penalty: float, permutations: int, seed: int
) -> BulkFit:
    """Fit, and judge on cohorts left out.

    Args:
        states: (n, D).
        truth: (n,) 0 or 1.
        cohorts: (n,) codes; a single one is judged by five folds.
        penalty: C, in units of one over the mean squared length.
        permutations: of the outcome inside cohorts.
        seed: of them.

    Raises:
        ValueError: fewer than five samples of a class.
    """
    sizes = np.bincount(truth, minlength=2)
    if sizes.min() < FEWEST:
        raise ValueError(
            f"{sizes[0]} and {sizes[1]} bulk samples of the two classes; expected at least {FEWEST} of each"
        )
    codes = np.unique(cohorts)
    centered = states.astype(np.float64)
    means = np.stack([centered[cohorts == code].mean(axis=0) for code in codes])
    centered = centered - means[np.searchsorted(codes, cohorts)]
    # in the dual: n samples have at most n directions
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    directions = directions[singular > singular[0] * 1e-6]
    low = centered @ directions.T
    rng = np.random.default_rng(seed)
    labels = [truth, *(_permute(truth, cohorts, rng) for _ in range(permutations))]
    scores = np.array([_left_out(low, label, cohorts, penalty) for label in labels])
    fits = [_regress(low, label, penalty) for label in labels]
    p = (1 + (scores[1:] >= scores[0]).sum()) / (1 + permutations)
    return BulkFit(
        (fits[0][0] @ directions).astype(np.float32), fits[0][1], means.mean(axis=0), _covariance(centered),
        np.stack([weight @ directions for weight, _ in fits[1:]]), float(scores[0]), float(p),
    )  # fmt: skip


def _permute(truth: np.ndarray, cohorts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = truth.copy()
    for code in np.unique(cohorts):
        own = np.flatnonzero(cohorts == code)
        found[own] = rng.permutation(found[own])
    return found


def _left_out(values: np.ndarray, truth: np.ndarray, cohorts: np.ndarray, penalty: float) -> float:
    """Mean AUC of cohorts (or fifths) that were left out."""
    parts = cohorts
    if len(np.unique(cohorts)) < 2:
        parts = np.arange(len(truth)) % 5
    found = []
    for code in np.unique(parts):
        held = parts == code
        if len(np.unique(truth[held])) < 2 or len(np.unique(truth[~held])) < 2:
            continue
        weight, _ = _regress(values[~held], truth[~held], penalty)
        found.append(auc(truth[held] == 1, values[held] @ weight))
    return float(np.mean(found)) if found else 0.5


def _regress(values: np.ndarray, truth: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    scale = max(float((values**2).sum(axis=1).mean()), 1e-12)
    model = LogisticRegression(C=penalty / scale, class_weight="balanced", max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(values, truth)
    return model.coef_[0], float(model.intercept_[0])


def _covariance(centered: np.ndarray) -> np.ndarray:
    """(D, D), of which a share is replaced by the mean variance."""
    found = centered.T @ centered / max(len(centered) - 1, 1)
    level = float(np.trace(found)) / len(found)
    return (1 - SHRINK) * found + SHRINK * max(level, 1e-12) * np.eye(len(found))


def align(states: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """States of cells, centered, with the covariance of the bulk samples: h C_cells^(−1/2) C_bulk^(1/2).

    Args:
        states: (n, D) of the cells of one domain.
        covariance: (D, D) of the bulk samples.
    """
    centered = states.astype(np.float64) - states.mean(axis=0)
    return centered @ _power(_covariance(centered), -0.5) @ _power(covariance.astype(np.float64), 0.5)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T


def set_discovery(score: np.ndarray, null: np.ndarray, fdr: float) -> np.ndarray:
    """``positive``, ``negative`` or ``none`` for each cell.

    The smallest |score| is sought at which the mean number of cells of permuted outcomes is at most ``fdr`` of the
    cells found.

    Args:
        score: (n,).
        null: (n, K) scores of permuted outcomes.
        fdr: of the set.
    """
    size = np.sort(np.abs(score))[::-1]
    edges = np.sort(np.abs(null).ravel())
    above = (len(edges) - np.searchsorted(edges, size, side="left")) / null.shape[1]
    good = np.flatnonzero(above / np.arange(1, len(size) + 1) <= fdr)
    called = np.full(len(score), "none", dtype=object)
    if len(good):
        chosen = np.abs(score) >= size[good[-1]]
        called[chosen & (score > 0)] = "positive"
        called[chosen & (score < 0)] = "negative"
    return called
