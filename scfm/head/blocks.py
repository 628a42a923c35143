"""How much the parts of a head's state count: a factor for each block of columns, chosen by cross-validation.

A head reads the backbone's embedding beside components of the genes. One penalty for all columns lets a backbone that
knows nothing about the question take weight from components that do. Here each block has a penalty of its own: an L2
penalty of 1/s² on the weights of a block is the common penalty after its columns are multiplied by s, and s = 0 leaves
the block out. The backbone comes first, and is used only where it is worth more than one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

#: Factors that are tried for each block.
SCALES = (1.0, 0.3, 0.0)
#: Folds of the cross-validation.
FOLDS = 4
#: Cells that are cross-validated on, at most.
MAX_CELLS = 4000
#: The least probability that a held-out cell's class is given, so that one cell cannot decide.
FLOOR = 1e-6

Fold = tuple[np.ndarray, np.ndarray]


def column_scales(scales: Sequence[float], blocks: Sequence[int], width: int) -> np.ndarray:
    """(D,) the factor of each column; ones where there are no scales.

    Args:
        scales: a factor for each block.
        blocks: widths of the blocks, of sum D.
        width: D.
    """
    if not scales:
        return np.ones(width)
    assert len(scales) == len(blocks), f"{len(scales)} scales of {len(blocks)} blocks"
    assert sum(blocks) == width, f"blocks of {sum(blocks)} columns, {width} given"
    return np.repeat(np.asarray(scales, dtype=np.float64), blocks)


def weigh_blocks(score: Callable[[tuple[float, ...]], np.ndarray], n_blocks: int) -> tuple[float, ...]:
    """The factors of the best mean score, one block after the other.

    The first block, the backbone, is left out unless leaving it out lowers the mean score by more than one standard
    error of the paired difference over cells.

    Args:
        score: factors of all blocks -> (n,) score of each cell when it was held out, the larger the better.
        n_blocks: number of blocks.

    Returns:
        The factors, at least one of them above 0.
    """
    best: tuple[float, ...] = (1.0,) * n_blocks
    for block in range(n_blocks):
        tried = [replace_scale(best, block, scale) for scale in SCALES]
        best = max((scales for scales in tried if any(scales)), key=lambda scales: float(score(scales).mean()))
    without = replace_scale(best, 0, 0.0)
    return best if not any(without) or is_gain(score(best) - score(without)) else without


def replace_scale(scales: tuple[float, ...], block: int, scale: float) -> tuple[float, ...]:
    """The factors with another one for one block."""
    return (*scales[:block], scale, *scales[block + 1 :])


def is_gain(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences (n,) is above one standard error of it."""
    n = len(differences)
    return n > 1 and float(differences.mean()) > float(differences.std(ddof=1)) / n**0.5


def cell_folds(codes: np.ndarray, groups: np.ndarray | None = None) -> list[Fold]:
    """Folds of cells, whole groups on one side where there are enough of them.

    Args:
        codes: (n,) class codes.
        groups: (n,) donors or the like; None for none.

    Returns:
        (cells to fit on, cells to score) of each fold, of at most 4,000 cells; none where a fold would be fitted on a
        single class.
    """
    from sklearn.model_selection import GroupKFold, KFold

    places = np.arange(len(codes))
    if len(places) > MAX_CELLS:
        places = np.sort(np.random.default_rng(0).choice(places, MAX_CELLS, replace=False))
    if len(places) < FOLDS:
        return []
    splits = [KFold(FOLDS, shuffle=True, random_state=0).split(places)]
    if groups is not None and len(np.unique(groups[places])) >= FOLDS:
        splits.insert(0, GroupKFold(FOLDS, shuffle=True, random_state=0).split(places, groups=groups[places]))
    for split in splits:
        folds = [(places[kept], places[held]) for kept, held in split]
        if all(len(np.unique(codes[kept])) > 1 for kept, _ in folds):
            return folds
    return []


def make_folds(n: int, groups: np.ndarray | None) -> list[Fold]:
    """Folds of cells, whole groups on one side where there are enough of them.

    Args:
        n: number of cells.
        groups: (n,) donors or the like; None for none.

    Returns:
        (cells to fit on, cells to score) of each fold, of at most 4,000 cells; none where there are too few.
    """
    from sklearn.model_selection import GroupKFold, KFold

    places = np.arange(n)
    if n > MAX_CELLS:
        places = np.sort(np.random.default_rng(0).choice(places, MAX_CELLS, replace=False))
    if len(places) < 2 * FOLDS:
        return []
    split = KFold(FOLDS, shuffle=True, random_state=0).split(places)
    if groups is not None and len(np.unique(groups[places])) >= FOLDS:
        split = GroupKFold(FOLDS, shuffle=True, random_state=0).split(places, groups=groups[places])
    return [(places[kept], places[held]) for kept, held in split]


def class_log_likelihood(classes: np.ndarray, probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) log-probability of the true class of each cell.

    Args:
        classes: (C,) codes that the model knows, ascending.
        probabilities: (n, C).
        truth: (n,) codes; one that the model does not know has the least probability.
    """
    place = np.searchsorted(classes, truth).clip(max=len(classes) - 1)
    given = np.where(classes[place] == truth, probabilities[np.arange(len(truth)), place], 0.0)
    return np.log(given.clip(FLOOR))
