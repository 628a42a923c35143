"""Where a linear layer begins and ends: the logistic regression of what it reads."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

log = logging.getLogger(__name__)

#: Inverse strengths of the L2 penalty that are tried, in units of one over the mean squared length of a row.
STRENGTHS = (3.0, 30.0, 300.0)
#: Parts of the cells, each held out once, by which a strength is chosen.
FOLDS = 4
#: The score of a class that no cell has.
NEVER = -20.0


def regress(layer: nn.Linear, values: np.ndarray, codes: np.ndarray) -> None:
    """Make a layer (D → C) the logistic regression of the labelled cells; it stays where these are of one class.

    Args:
        layer: whose weights are set.
        values: (n, D) what it reads.
        codes: (n,) class codes, -1 where missing.
    """
    known = codes >= 0
    if len(np.unique(codes[known])) < 2:
        return
    weight, bias = logistic_regression(values[known], codes[known], layer.out_features)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def logistic_regression(values: np.ndarray, codes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression, balanced over classes, its L2 penalty chosen by cross-validation.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n_classes: C.

    Returns:
        Weights (C, D) and biases (C,), float32; a class without cells has weights of 0 and a bias of -20.
    """
    from sklearn.linear_model import LogisticRegression

    scale = np.mean(np.square(values, dtype=np.float64).sum(axis=1))

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=strength / scale, max_iter=300, tol=1e-3, class_weight="balanced")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lbfgs failed to converge")
            return model.fit(values[rows], codes[rows])

    strength = _best_strength(fitted, values, codes)
    model = fitted(strength, np.arange(len(codes)))
    log.info("A linear layer is now the logistic regression of %d cells (C=%g).", len(codes), strength / scale)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one score, whose sign decides
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weights, biases = np.zeros((n_classes, values.shape[1])), np.full(n_classes, NEVER)
    weights[model.classes_], biases[model.classes_] = weight, bias
    return weights.astype(np.float32), biases.astype(np.float32)


def _best_strength(fitted: Callable[[float, np.ndarray], Any], values: np.ndarray, codes: np.ndarray) -> float:
    """The strength of best macro-F1 over cells that were held out; of equally good ones the strongest penalty."""
    from sklearn.metrics import f1_score
    from sklearn.model_selection import KFold

    if len(codes) < FOLDS:
        return STRENGTHS[0]
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(values))
    if any(len(np.unique(codes[kept])) < 2 for kept, _ in folds):
        return STRENGTHS[0]

    def quality(strength: float) -> float:
        called = np.empty_like(codes)
        for kept, held in folds:
            called[held] = fitted(strength, kept).predict(values[held])
        return float(f1_score(codes, called, average="macro", zero_division=0))

    return max(STRENGTHS, key=quality)
