"""Ridge regression of many targets with a factor for each block of inputs, and values missing among the targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scfm.head.blocks import Fold, column_scales, make_folds, weigh_blocks

#: Penalties that are tried for each target.
PENALTIES = np.logspace(0, 4, 9)


@dataclass(frozen=True)
class RidgeChoice:
    """How strongly a ridge regression shrinks.

    Attributes:
        scales: a factor for each block, see :mod:`scfm.head.blocks`.
        penalties: (P,) one for each target.
    """

    scales: tuple[float, ...]
    penalties: np.ndarray


def choose_ridge(
    values: np.ndarray, targets: np.ndarray, blocks: Sequence[int], groups: np.ndarray | None = None
) -> RidgeChoice:
    """The scales of the blocks and the penalty of each target, by cross-validation.

    Args:
        values: (n, D).
        targets: (n, P), NaN where missing.
        blocks: widths of the blocks of columns, the backbone's first.
        groups: (n,) donors or the like, which stay together where there are enough of them.
    """
    folds = make_folds(len(values), groups)
    if not folds:
        return RidgeChoice((1.0,) * len(blocks), np.full(targets.shape[1], float(np.median(PENALTIES))))

    def errors(scales: tuple[float, ...]) -> np.ndarray:
        """(L, n', P) squared errors of held-out cells, for each penalty."""
        columns = column_scales(scales, blocks, values.shape[1])
        parts = [_errors(values * columns, targets, fold) for fold in folds]
        return np.concatenate(parts, axis=1)

    def score(scales: tuple[float, ...]) -> np.ndarray:
        """(n',) of each held-out cell, with the best penalty of each target."""
        squared = errors(scales)
        best = _best(squared)
        own = np.take_along_axis(squared, best[None, None, :], axis=0)[0]
        known = np.isfinite(own)
        return -np.where(known, own, 0.0).sum(axis=1) / known.sum(axis=1).clip(min=1)

    scales = weigh_blocks(score, len(blocks))
    return RidgeChoice(scales, PENALTIES[_best(errors(scales))])


def fit_ridge(
    values: np.ndarray, targets: np.ndarray, choice: RidgeChoice, blocks: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize ‖y − b − x w‖² + λ‖w / s‖² for each target, over the cells that have it (Hoerl and Kennard 1970).

    Args:
        values: (n, D).
        targets: (n, P), NaN where missing.
        choice: λ and s.
        blocks: widths of the blocks that the scales are of.

    Returns:
        Weights (P, D) and biases (P,), float32; 0 for a target without cells.
    """
    columns = column_scales(choice.scales, blocks, values.shape[1])
    weights = np.zeros((targets.shape[1], values.shape[1]))
    biases = np.zeros(targets.shape[1])
    for known, own in _patterns(targets):
        center, basis, spread, moments = _decompose(values[known] * columns, targets[np.ix_(known, own)])
        solved = basis @ (moments / (spread[:, None] + choice.penalties[own]))
        weights[own] = (solved * columns[:, None]).T
        biases[own] = targets[np.ix_(known, own)].mean(axis=0) - center @ solved
    return weights.astype(np.float32), biases.astype(np.float32)


def _best(squared: np.ndarray) -> np.ndarray:
    """(P,) place of the penalty with the smallest error of each target, (L, n, P)."""
    known = np.isfinite(squared)
    return (np.where(known, squared, 0.0).sum(axis=1) / known.sum(axis=1).clip(min=1)).argmin(axis=0)


def _errors(values: np.ndarray, targets: np.ndarray, fold: Fold) -> np.ndarray:
    """(L, n', P) squared errors of the cells of a fold; NaN where the target is missing, or in all other cells."""
    kept, held = fold
    squared = np.full((len(PENALTIES), len(held), targets.shape[1]), np.nan)
    for known, own in _patterns(targets[kept]):
        learned = targets[np.ix_(kept[known], own)]
        center, basis, spread, moments = _decompose(values[kept[known]], learned)
        projected = (values[held] - center) @ basis
        for i, penalty in enumerate(PENALTIES):
            predicted = learned.mean(axis=0) + projected @ (moments / (spread[:, None] + penalty))
            squared[i][:, own] = (predicted - targets[np.ix_(held, own)]) ** 2
    return squared


def _decompose(values: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the values, eigenvectors and eigenvalues of their scatter, and moments with the targets in that basis."""
    center = values.mean(axis=0)
    centered = values - center
    spread, basis = np.linalg.eigh(centered.T @ centered)
    return center, basis, spread.clip(min=0), basis.T @ (centered.T @ (targets - targets.mean(axis=0)))


def _patterns(targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(cells, targets) that go together: targets that the same cells have, at least two of them."""
    known = np.isfinite(targets)
    kinds, member = np.unique(known, axis=1, return_inverse=True)
    for number in range(kinds.shape[1]):
        cells = np.flatnonzero(kinds[:, number])
        if len(cells) > 1:
            yield cells, np.flatnonzero(member.ravel() == number)
