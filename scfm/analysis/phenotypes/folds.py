"""Folds of whole donors, and labels permuted over them."""

from __future__ import annotations

import numpy as np

#: With fewer donors, each is left out alone.
FEW_DONORS = 20


def donor_folds(
    truth: np.ndarray, donors: np.ndarray, *, folds: int = 5, repeats: int = 3, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, test) samples of each fold, (S,) bool; all samples of a donor are on one side.

    Args:
        truth: (S,) codes, for folds of like composition.
        donors: (S,) donor of each sample.
        folds: where there are 20 donors or more; each donor is left out alone where there are fewer.
        repeats: times that all samples are tested, with 20 donors or more.
        seed: of the draws.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes = np.unique(donors)
    if len(codes) < FEW_DONORS:
        return [(donors != code, donors == code) for code in codes]
    found = []
    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        for _, test in splitter.split(truth, truth, donors):
            held = np.isin(np.arange(len(truth)), test)
            found.append((~held, held))
    return found


def permuted_labels(truth: np.ndarray, donors: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """(n + 1, S) labels: the true ones, then permuted ones.

    Labels are permuted over donors where a donor has one, and among the samples of each donor where it has several.

    Args:
        truth: (S,) codes.
        donors: (S,) donor of each sample.
        n: permutations.
        seed: of them.
    """
    rng = np.random.default_rng(seed)
    codes, place = np.unique(donors, return_inverse=True)
    members = [np.flatnonzero(place == code) for code in range(len(codes))]
    constant = all((truth[rows] == truth[rows[0]]).all() for rows in members)
    found = np.tile(truth, (n + 1, 1))
    for draw in range(1, n + 1):
        if constant:
            labels = rng.permutation([truth[rows[0]] for rows in members])
            found[draw] = labels[place]
        else:
            for rows in members:
                found[draw, rows] = rng.permutation(truth[rows])
    return found
