"""Logistic regression of a linear layer on its inputs, before and after fine-tuning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

log = logging.getLogger(__name__)

#: Folds of the cross-validation that chooses a penalty.
FOLDS = 4
#: The bias of a class without cells.
NEVER = -20.0


@dataclass(frozen=True)
class Penalty:
    """How a logistic regression is fitted.

    Attributes:
        c: C, the inverse strength of the L2 penalty, in units of one over the mean squared length of a row.
        balance: the weight of a cell is the frequency of its class to the power of minus this: 1 balances classes, 0
            gives all cells the same weight.
    """

    c: float
    balance: float = 1.0


#: Candidates where classes are stages or times.
BALANCED = tuple(Penalty(c) for c in (3.0, 30.0, 300.0))
#: Candidates where classes are types: with very rare types, full balance is sometimes worse.
EITHER = (*BALANCED, *(replace(penalty, balance=0.5) for penalty in BALANCED))


def regress(
    layer: nn.Linear, values: np.ndarray, codes: np.ndarray, penalties: Sequence[Penalty] = BALANCED
) -> Penalty | None:
    """Set a layer (D → C) to the logistic regression of the labeled cells, unless these are of a single class.

    Args:
        layer: the layer whose weights are set.
        values: (n, D) its inputs.
        codes: (n,) class codes, -1 where missing.
        penalties: candidates, of which the best is used.

    Returns:
        The penalty; None where the layer is left unchanged.
    """
    known = codes >= 0
    if len(np.unique(codes[known])) < 2:
        return None
    penalty = choose_penalty(values[known], codes[known], penalties)
    weight, bias = logistic_regression(values[known], codes[known], layer.out_features, penalty)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    log.info("Fitted the classifier by logistic regression on %d cells (C = %g).", known.sum(), penalty.c)
    return penalty


def logistic_regression(
    values: np.ndarray, codes: np.ndarray, n_classes: int, penalty: Penalty
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n_classes: C.
        penalty: penalty of the weights and balance of the classes.

    Returns:
        Weights (C, D) and biases (C,), float32; a class without cells has weights of 0 and a bias of -20.
    """
    model = _fit_model(values, codes, penalty)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one score, whose sign decides
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weights, biases = np.zeros((n_classes, values.shape[1])), np.full(n_classes, NEVER)
    weights[model.classes_], biases[model.classes_] = weight, bias
    return weights.astype(np.float32), biases.astype(np.float32)


def choose_penalty(values: np.ndarray, codes: np.ndarray, penalties: Sequence[Penalty]) -> Penalty:
    """The penalty of the best macro-F1 in cross-validation; the first of equally good ones, or where cells are few."""
    from sklearn.metrics import f1_score
    from sklearn.model_selection import KFold

    if len(codes) < FOLDS or len(penalties) == 1:
        return penalties[0]
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(values))
    if any(len(np.unique(codes[kept])) < 2 for kept, _ in folds):
        return penalties[0]

    def quality(penalty: Penalty) -> float:
        called = np.empty_like(codes)
        for kept, held in folds:
            called[held] = _fit_model(values[kept], codes[kept], penalty).predict(values[held])
        return float(f1_score(codes, called, average="macro", zero_division=0))

    return max(penalties, key=quality)


def _fit_model(values: np.ndarray, codes: np.ndarray, penalty: Penalty) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.class_weight import compute_sample_weight

    scale = np.mean(np.square(values, dtype=np.float64).sum(axis=1))
    model = LogisticRegression(C=penalty.c / scale, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        return model.fit(values, codes, sample_weight=compute_sample_weight("balanced", codes) ** penalty.balance)
