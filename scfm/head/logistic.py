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

from scfm.head.blocks import Fold, cell_folds, class_log_likelihood, column_scales, weigh_blocks

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

log = logging.getLogger(__name__)

#: The bias of a class without cells.
NEVER = -20.0


@dataclass(frozen=True)
class Penalty:
    """How a logistic regression is fitted.

    Attributes:
        c: C, the inverse strength of the L2 penalty, in units of one over the mean squared length of a row.
        balance: the weight of a cell is the frequency of its class to the power of minus this: 1 balances classes, 0
            gives all cells the same weight.
        scales: factor of the columns of each block (:mod:`scfm.head.blocks`); empty for 1.
    """

    c: float
    balance: float = 1.0
    scales: tuple[float, ...] = ()


#: Candidates where classes are stages or times.
BALANCED = tuple(Penalty(c) for c in (3.0, 30.0, 300.0))
#: Candidates where classes are types: with very rare types, full balance is sometimes worse.
EITHER = (*BALANCED, *(replace(penalty, balance=0.5) for penalty in BALANCED))


def set_layer(
    layer: nn.Linear, values: np.ndarray, codes: np.ndarray, penalty: Penalty, blocks: Sequence[int] = ()
) -> None:
    """Set a layer (D → C) to the logistic regression of cells (n, D) with class codes (n,), none missing."""
    weight, bias = logistic_regression(values, codes, layer.out_features, penalty, blocks)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    log.info("Fitted the classifier by logistic regression on %d cells (C = %g).", len(codes), penalty.c)


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
    set_layer(layer, values[known], codes[known], penalty)
    return penalty


def logistic_regression(
    values: np.ndarray, codes: np.ndarray, n_classes: int, penalty: Penalty, blocks: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n_classes: C.
        penalty: penalty of the weights, of each block, and balance of the classes.
        blocks: widths of the blocks of columns that ``penalty.scales`` are of.

    Returns:
        Weights (C, D) and biases (C,), float32; a class without cells has weights of 0 and a bias of -20, a block that
        is left out has weights of 0.
    """
    model, columns = fit_model(values, codes, penalty, blocks)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one score, whose sign decides
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weights, biases = np.zeros((n_classes, values.shape[1])), np.full(n_classes, NEVER)
    kept = columns > 0
    weights[np.ix_(model.classes_, np.flatnonzero(kept))] = weight * columns[kept]
    biases[model.classes_] = bias
    return weights.astype(np.float32), biases.astype(np.float32)


def choose_penalty(
    values: np.ndarray,
    codes: np.ndarray,
    penalties: Sequence[Penalty],
    blocks: Sequence[int] = (),
    groups: np.ndarray | None = None,
) -> Penalty:
    """The best penalty in cross-validation.

    C and balance by macro-F1, the first of equally good ones; then the scales of the blocks by the log-likelihood of
    held-out cells, weighted as the fit weights them (:func:`scfm.head.blocks.weigh_blocks`); then C and balance again.

    Args:
        values: (n, D).
        codes: (n,) class codes.
        penalties: candidates, the first where cells are too few to compare.
        blocks: widths of the blocks of columns; fewer than two are not weighed.
        groups: (n,) donors or the like that stay together in folds; None for none.
    """
    folds = cell_folds(codes, groups)
    if not folds or (len(penalties) == 1 and len(blocks) < 2):
        return penalties[0]
    trials = _Trials(values, codes, blocks, folds)
    best = max(penalties, key=trials.quality)
    if len(blocks) < 2:
        return best
    scales = weigh_blocks(lambda given: trials.score(replace(best, scales=given)), len(blocks))
    return max((replace(penalty, scales=scales) for penalty in penalties), key=trials.quality)


class _Trials:
    """Cross-validated fits, each made once."""

    def __init__(self, values: np.ndarray, codes: np.ndarray, blocks: Sequence[int], folds: Sequence[Fold]) -> None:
        self.values, self.codes, self.blocks, self.folds = values, codes, blocks, folds
        self.held = np.concatenate([held for _, held in folds])
        self.made: dict[Penalty, tuple[np.ndarray, np.ndarray]] = {}

    def quality(self, penalty: Penalty) -> float:
        """Macro-F1 of the held-out cells."""
        from sklearn.metrics import f1_score

        return float(f1_score(self.codes[self.held], self._try(penalty)[0], average="macro", zero_division=0))

    def score(self, penalty: Penalty) -> np.ndarray:
        """(n,) weighted log-likelihood of each held-out cell."""
        from sklearn.utils.class_weight import compute_sample_weight

        weight = compute_sample_weight("balanced", self.codes[self.held]) ** penalty.balance
        return self._try(penalty)[1] * weight / weight.mean()

    def _try(self, penalty: Penalty) -> tuple[np.ndarray, np.ndarray]:
        """Codes called and log-probabilities of the true ones, of the held-out cells."""
        if penalty not in self.made:
            called, likelihood = [], []
            for kept, held in self.folds:
                model, columns = fit_model(self.values[kept], self.codes[kept], penalty, self.blocks)
                chosen = columns > 0
                probabilities = model.predict_proba(self.values[held][:, chosen] * columns[chosen])
                called.append(model.classes_[probabilities.argmax(axis=1)])
                likelihood.append(class_log_likelihood(model.classes_, probabilities, self.codes[held]))
            self.made[penalty] = np.concatenate(called), np.concatenate(likelihood)
        return self.made[penalty]


def fit_model(
    values: np.ndarray, codes: np.ndarray, penalty: Penalty, blocks: Sequence[int] = ()
) -> tuple[LogisticRegression, np.ndarray]:
    """scikit-learn's model of the columns whose factor is above 0, times that factor, and the (D,) factors."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.class_weight import compute_sample_weight

    columns = column_scales(penalty.scales, blocks, values.shape[1])
    scaled = values[:, columns > 0] * columns[columns > 0].astype(values.dtype)
    scale = np.mean(np.square(scaled, dtype=np.float64).sum(axis=1))
    model = LogisticRegression(C=penalty.c / scale, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        weight = compute_sample_weight("balanced", codes) ** penalty.balance
        return model.fit(scaled, codes, sample_weight=weight), columns
