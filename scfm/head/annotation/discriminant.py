"""Where prototypes begin: the linear discriminant directions of the labeled cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh
from scipy.special import softmax

from scfm.head.blocks import Fold, cell_folds, class_log_likelihood, column_scales, weigh_blocks

#: Share of the covariance inside classes that is replaced by its mean variance.
SHRINK = 0.3


def discriminant_directions(values: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """The directions along which class means differ most, relative to the spread inside classes (Fisher).

    They solve S_between v = λ S_within v, largest λ first, with unit spread inside classes: in their space the nearest
    class mean is the call of a linear discriminant analysis with equal priors. Further directions, along which class
    means do not differ, contribute to the distance of cells that belong to no class.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n: number of directions, at most.

    Returns:
        (≤ n, D) float32.
    """
    classes, place = np.unique(codes, return_inverse=True)
    means = np.stack([values[place == i].mean(axis=0) for i in range(len(classes))]).astype(np.float64)
    rest = values - means[place]
    within = rest.T @ rest / max(len(values) - len(classes), 1)
    level = np.trace(within) / len(within) + 1e-12
    within = (1 - SHRINK) * within + SHRINK * level * np.eye(len(within))
    between = np.cov(means.T, bias=True)
    _, directions = eigh(between, within)
    return np.ascontiguousarray(directions.T[::-1][:n], dtype=np.float32)


def choose_scales(
    values: np.ndarray, codes: np.ndarray, blocks: Sequence[int], groups: np.ndarray | None = None
) -> tuple[float, ...]:
    """The factors of blocks with which held-out cells are named best by the nearest class mean.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        blocks: widths of the blocks of columns, the backbone's first.
        groups: (n,) donors or the like that stay together in folds; None for none.

    Returns:
        See :func:`scfm.head.blocks.weigh_blocks`; ones where there is a single block, or too few cells to compare.
    """
    folds = cell_folds(codes, groups)
    if len(blocks) < 2 or not folds:
        return (1.0,) * len(blocks)
    made: dict[tuple[float, ...], np.ndarray] = {}

    def score(scales: tuple[float, ...]) -> np.ndarray:
        if scales not in made:
            columns = column_scales(scales, blocks, values.shape[1])
            kept = values[:, columns > 0] * columns[columns > 0]
            made[scales] = np.concatenate([_score_fold(kept, codes, fold) for fold in folds])
        return made[scales]

    return weigh_blocks(score, len(blocks))


def weighed_directions(
    values: np.ndarray, codes: np.ndarray, n: int, blocks: Sequence[int], scales: Sequence[float]
) -> np.ndarray:
    """The directions (≤ n, D) of columns times the factors of their blocks; 0 in blocks that are left out."""
    columns = column_scales(scales, blocks, values.shape[1])
    kept = columns > 0
    found = discriminant_directions(values[:, kept] * columns[kept], codes, n)
    directions = np.zeros((len(found), values.shape[1]), dtype=np.float32)
    directions[:, kept] = found * columns[kept]
    return directions


def _score_fold(values: np.ndarray, codes: np.ndarray, fold: Fold) -> np.ndarray:
    """(n,) log-likelihood of held-out cells, each divided by the frequency of its class, mean weight 1."""
    train, held = fold
    classes = np.unique(codes[train])
    directions = discriminant_directions(values[train], codes[train], max(len(classes) - 1, 1))
    position = values @ directions.T
    means = np.stack([position[train][codes[train] == code].mean(axis=0) for code in classes])
    square = np.square(position[held][:, None] - means[None]).sum(axis=2)
    _, place, count = np.unique(codes[held], return_inverse=True, return_counts=True)
    weight = 1 / count[place]
    return class_log_likelihood(classes, softmax(-square / 2, axis=1), codes[held]) * weight / weight.mean()
