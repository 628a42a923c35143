"""Which cells are learned from and which are judged: never the same group on both sides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

log = logging.getLogger(__name__)

Fold = tuple[np.ndarray, np.ndarray]


def make_folds(codes: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int) -> list[Fold]:
    """Cross-validation folds whose groups do not overlap.

    Args:
        codes: (B,) class codes, -1 where missing; cells without a label are in no fold.
        groups: (B,) donors, samples or the like; None splits single cells.
        n_folds: at most as many folds as there are groups.
        seed: of the shuffle.

    Returns:
        (train rows, test rows) of each fold; each labeled cell is tested once.

    Raises:
        ValueError: fewer than two labeled classes, groups or folds.
    """
    rows = np.flatnonzero(codes >= 0)
    if len(np.unique(codes[rows])) < 2:
        raise ValueError("the labeled cells are all of one class; annotation needs at least two classes")
    if n_folds < 2:
        raise ValueError(f"folds={n_folds}; expected at least 2")
    if groups is None:
        splitter, owner = StratifiedKFold(min(n_folds, len(rows)), shuffle=True, random_state=seed), None
    else:
        owner = np.unique(np.asarray(groups)[rows], return_inverse=True)[1]
        if owner.max() == 0:
            raise ValueError("all labeled cells are of one group; leave group out to split single cells")
        splitter = StratifiedGroupKFold(min(n_folds, int(owner.max()) + 1), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = [(rows[train], rows[test]) for train, test in splitter.split(rows, codes[rows], owner)]
    return [(train, test) for train, test in parts if len(test)]


def read_split(path: Path, cells: Sequence[str], codes: np.ndarray) -> list[Fold]:
    """The one fold of a fine-tune: learn from all but its test cells, judge its test cells.

    Args:
        path: ``split.csv`` with the columns ``cell`` and ``part`` (train, val, calibration, test).
        cells: names of the cells.
        codes: (B,) class codes, -1 where missing.

    Returns:
        One (train rows, test rows).

    Raises:
        FileNotFoundError: no such file.
        ValueError: other columns, or no labeled cell on one side.
    """
    if not path.is_file():
        raise FileNotFoundError(f"split={path} does not exist; scfm-finetune writes split.csv beside its checkpoints")
    table = pd.read_csv(path, dtype=str)
    if not {"cell", "part"} <= set(table.columns):
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}; expected cell, part")
    part = pd.Series(cells).map(table.drop_duplicates("cell").set_index("cell")["part"]).to_numpy(dtype=object)
    absent = int(pd.isna(part).sum())
    if absent:
        log.warning("%d of %d cells are not in %s and take no part in the annotation scores", absent, len(part), path)
    known = codes >= 0
    train = np.flatnonzero(known & np.isin(part, ("train", "val", "calibration")))
    test = np.flatnonzero(known & (part == "test"))
    if len(train) == 0 or len(test) == 0:
        raise ValueError(
            f"{path} leaves {len(train)} labeled training cells and {len(test)} labeled test cells of this file; "
            "expected some of each: give the file that was fine-tuned on, or leave split out"
        )
    return [(train, test)]
