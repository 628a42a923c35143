"""Where a linear layer begins and ends: the logistic regression of what it reads."""

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

#: Parts of the cells, each held out once, by which a penalty is chosen.
FOLDS = 4
#: The score of a class that no cell has.
NEVER = -20.0


@dataclass(frozen=True)
class Penalty:
    """How a logistic regression is fitted.

    Attributes:
        strength: inverse strength of the L2 penalty, in units of one over the mean squared length of a row.
        balance: a cell weighs as the frequency of its class to this power, inversely: 1 balances classes, 0 leaves
            cells alike.
    """

    strength: float
    balance: float = 1.0


#: What is tried where classes are stages or times.
BALANCED = tuple(Penalty(strength) for strength in (3.0, 30.0, 300.0))
#: What is tried where classes are types: the rarest are sometimes better left without all of their weight.
EITHER = (*BALANCED, *(replace(penalty, balance=0.5) for penalty in BALANCED))


def regress(
    layer: nn.Linear, values: np.ndarray, codes: np.ndarray, penalties: Sequence[Penalty] = BALANCED
) -> Penalty | None:
    """Make a layer (D → C) the logistic regression of the labelled cells; it stays where these are of one class.

    Args:
        layer: whose weights are set.
        values: (n, D) what it reads.
        codes: (n,) class codes, -1 where missing.
        penalties: the best of them is taken.

    Returns:
        Which that was; None where the layer stays.
    """
    known = codes >= 0
    if len(np.unique(codes[known])) < 2:
        return None
    penalty = best_penalty(values[known], codes[known], penalties)
    weight, bias = logistic_regression(values[known], codes[known], layer.out_features, penalty)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    log.info("A linear layer is now the logistic regression of %d cells (penalty %g).", known.sum(), penalty.strength)
    return penalty


def logistic_regression(
    values: np.ndarray, codes: np.ndarray, n_classes: int, penalty: Penalty
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n_classes: C.
        penalty: of the weights, and whether classes are balanced.

    Returns:
        Weights (C, D) and biases (C,), float32; a class without cells has weights of 0 and a bias of -20.
    """
    model = _fitted(values, codes, penalty)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one score, whose sign decides
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weights, biases = np.zeros((n_classes, values.shape[1])), np.full(n_classes, NEVER)
    weights[model.classes_], biases[model.classes_] = weight, bias
    return weights.astype(np.float32), biases.astype(np.float32)


def best_penalty(values: np.ndarray, codes: np.ndarray, penalties: Sequence[Penalty]) -> Penalty:
    """That of best macro-F1 over cells that were held out; of equally good ones, or where cells are few, the first."""
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
            called[held] = _fitted(values[kept], codes[kept], penalty).predict(values[held])
        return float(f1_score(codes, called, average="macro", zero_division=0))

    return max(penalties, key=quality)


def _fitted(values: np.ndarray, codes: np.ndarray, penalty: Penalty) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.class_weight import compute_sample_weight

    scale = np.mean(np.square(values, dtype=np.float64).sum(axis=1))
    model = LogisticRegression(C=penalty.strength / scale, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        return model.fit(values, codes, sample_weight=compute_sample_weight("balanced", codes) ** penalty.balance)
