"""Splits into train, validation and test cells that do not leak: whole donors (or other groups) stay together."""

import logging
from dataclasses import dataclass, field, replace

import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of each part (int64, ascending), and ``by``: how they were split, for reports.

    ``calibration`` cells, if :func:`take_calibration` took some, are used for thresholds only.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    by: str
    calibration: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


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


#: With fewer training groups than this, none is used for calibration.
ENOUGH_GROUPS = 6


def take_calibration(split: Split, share: float, *, seed: int, groups: np.ndarray | None = None) -> Split:
    """The split with calibration cells taken out of it; the test cells stay as they are.

    Whole training groups are taken if there are enough of them. If there are few, cells are drawn from the validation
    part, at most half of it: like the cells that the thresholds will be applied to, they are of groups that training
    did not see. Without groups, cells are drawn from the training part.

    Args:
        split: training, validation and test cells.
        share: of all cells.
        seed: seed of the draw.
        groups: (n_cells,) integer codes of the groups; None if single cells were split.

    Raises:
        ValueError: a share outside [0, 0.5).
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"calibration={share}; expected a share of the cells, 0 <= calibration < 0.5")
    if share == 0:
        return split
    wanted = round(share * (len(split.train) + len(split.val) + len(split.test)))
    rng = np.random.default_rng([seed, len(split.train), 3])
    source, taken = split.train, np.zeros(len(split.train), dtype=bool)
    n_groups = 0 if groups is None else len(np.unique(groups[split.train]))
    if groups is not None and n_groups >= ENOUGH_GROUPS:
        taken = _group_parts(groups[split.train], wanted / len(split.train), 0.0, rng, "group") == 1
    else:
        if n_groups and len(split.val):
            source, wanted = split.val, min(wanted, len(split.val) // 2)
        taken = np.isin(np.arange(len(source)), rng.permutation(len(source))[:wanted])
    log.info("%d cells are set aside for calibration.", taken.sum())
    if source is split.val:
        return replace(split, val=source[~taken], calibration=source[taken])
    return replace(split, train=source[~taken], calibration=source[taken])


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
            share > 0
            and len(waiting) > left
            and (taken == 0 or _is_nearer(taken, sizes[waiting[0]], share * len(groups)))
        ):
            chosen = waiting.pop(0)
            part_of_group[chosen] = part
            taken += sizes[chosen]
    return part_of_group[members]


def _is_nearer(taken: int, more: int, wanted: float) -> bool:
    """Whether taking one more group brings the part nearer to its wanted size."""
    return abs(taken + more - wanted) < abs(taken - wanted)
