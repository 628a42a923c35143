"""Sets of names that hold the true one with a stated probability (split conformal prediction)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fit_limit(probabilities: np.ndarray, truth: np.ndarray, coverage: float) -> float:
    """The probability from which on a class is in the set of a cell (Sadinle et al. 2019, least ambiguous sets).

    The ⌈(n + 1) · coverage⌉-th smallest of 1 − p of the true class over n calibration cells. For a new cell that is
    drawn as these were, the set holds the true class with at least this probability, whatever the classifier; a cell of
    a type that was not trained on has no true class to hold.

    Args:
        probabilities: (n, C) of calibration cells.
        truth: (n,) their class codes.
        coverage: between 0 and 1.

    Returns:
        The limit; 0 (all classes) where there are too few cells for the coverage.
    """
    n = len(truth)
    place = int(np.ceil((n + 1) * coverage - 1e-9))
    if place > n:
        return 0.0
    return float(1 - np.sort(1 - probabilities[np.arange(n), truth])[place - 1])


def name_sets(probabilities: np.ndarray, names: Sequence[str], limit: float) -> np.ndarray:
    """(n,) the names of each cell whose probability reaches the limit, likeliest first, joined by ``|``.

    The likeliest is always in the set; "" for a cell without probabilities.

    Args:
        probabilities: (n, C).
        names: of the classes.
        limit: of :func:`fit_limit`.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sizes = np.maximum((probabilities >= limit - 1e-9).sum(axis=1), 1)
    empty = np.isnan(probabilities).any(axis=1)
    sets = ["|".join(names[code] for code in row[:size]) for row, size in zip(order, sizes, strict=True)]
    return np.where(empty, "", np.array(sets, dtype=object))
