"""Draw cells with given chances, and the weights that undo them."""

from __future__ import annotations

import numpy as np


def share_out(sizes: np.ndarray, n: int) -> np.ndarray:
    """How many cells each group gives: the same number, small groups all of theirs.

    Args:
        sizes: (groups,) cells.
        n: in all, at most the sum of the sizes.

    Returns:
        (groups,) int64 that sum to n.
    """
    given = np.zeros(len(sizes), dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    left = n
    for place, group in enumerate(order):
        given[group] = min(sizes[group], left // (len(order) - place))
        left -= given[group]
    return given


def inclusion_chances(scores: np.ndarray, n: int) -> np.ndarray:
    """(m,) chances that are proportional to the scores, at most 1, and sum to n.

    Args:
        scores: (m,) 0 or more.
        n: at most m.
    """
    values = np.maximum(np.asarray(scores, dtype=np.float64), 0)
    values = values + max(values.mean() * 1e-3, 1e-300)  # no cell without a chance
    chances = np.zeros(len(values))
    sure = np.zeros(len(values), dtype=bool)
    while True:
        rest = n - sure.sum()
        chances[sure] = 1.0
        chances[~sure] = rest * values[~sure] / max(values[~sure].sum(), 1e-300)
        more = ~sure & (chances >= 1.0)
        if not more.any():
            return chances
        sure |= more


def draw_systematic(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places drawn with the given chances, ascending: as many as the chances sum to (Madow 1949), in random order.

    Args:
        chances: (m,) each at most 1, with a whole sum.
        rng: random numbers.
    """
    order = rng.permutation(len(chances))
    edges = np.concatenate([[0.0], np.cumsum(chances[order])])
    n = round(edges[-1])
    edges *= n / max(edges[-1], 1e-300)  # exactly n points of a comb of step 1 fall inside
    points = rng.random() + np.arange(n)
    return np.sort(order[np.clip(np.searchsorted(edges, points, side="right") - 1, 0, len(order) - 1)])
