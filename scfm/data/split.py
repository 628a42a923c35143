"""Splits into train, validation and test that do not leak: whole donors (or any group) go to one side."""

import logging
from dataclasses import dataclass

import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of each part (int64, ascending) and what they were split by, for the reader of a report."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    by: str


def split_rows(
    n_cells: int, *, val: float, test: float, seed: int, group: str | None = None, groups: np.ndarray | None = None
) -> Split:
    """Divide cells into train, validation and test: a pure function of its arguments.

    Args:
        n_cells: number of cells.
        val: share of cells for validation.
        test: share of cells for the test.
        seed: seed of the draw.
        group: name of the column that ``groups`` holds, for the message.
        groups: (n_cells,) integer codes; cells of one group stay together. None splits cell by cell.

    Returns:
        the parts; with groups, shares are reached as nearly as whole groups allow, and at least one group each.

    Raises:
        ValueError: shares outside [0, 1), or fewer groups than parts.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"data.val={val} and data.test={test} must be shares of the cells, together less than 1")
    rng = np.random.default_rng([seed, n_cells])
    if groups is None:
        part = _random_parts(n_cells, val, test, rng)
        by = "cells at random: cells of one donor may be on both sides (prepare the store with group=DONOR_COLUMN)"
        log.warning("Split by %s.", by)
    else:
        part = _group_parts(groups, val, test, rng, str(group))
        by = f"{group}: whole groups"
    train, held_val, held_test = (np.flatnonzero(part == i) for i in range(3))
    log.info("Split by %s: %d train, %d validation, %d test cells.", by, len(train), len(held_val), len(held_test))
    return Split(train, held_val, held_test, by)


def _random_parts(n_cells: int, val: float, test: float, rng: np.random.Generator) -> np.ndarray:
    n_val, n_test = round(n_cells * val), round(n_cells * test)
    part = np.zeros(n_cells, dtype=np.int8)
    shuffled = rng.permutation(n_cells)
    part[shuffled[:n_val]] = 1
    part[shuffled[n_val : n_val + n_test]] = 2
    return part


def _group_parts(groups: np.ndarray, val: float, test: float, rng: np.random.Generator, name: str) -> np.ndarray:
    codes, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    n_parts = 1 + (val > 0) + (test > 0)
    if len(codes) < n_parts:
        raise ValueError(
            f"the group column {name!r} has {len(codes)} group(s), but train, validation and test need {n_parts}; "
            "set data.val=0 or data.test=0, or data.group=null to split cell by cell"
        )
    waiting = list(rng.permutation(len(codes)))
    part_of_group = np.zeros(len(codes), dtype=np.int8)
    for part, share, left in ((1, val, 1 + (test > 0)), (2, test, 1)):
        taken = 0
        while (
            share > 0 and len(waiting) > left and (taken == 0 or _nearer(taken, sizes[waiting[0]], share * len(groups)))
        ):
            chosen = waiting.pop(0)
            part_of_group[chosen] = part
            taken += sizes[chosen]
    return part_of_group[members]


def _nearer(taken: int, more: int, wanted: float) -> bool:
    """Whether taking one more group brings the part nearer to its wanted size."""
    return abs(taken + more - wanted) < abs(taken - wanted)
