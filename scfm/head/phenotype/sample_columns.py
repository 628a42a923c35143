"""Samples, types and labels of a file's cells, from the obs columns that a head reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from scfm.head.base import OBS, Arrays

log = logging.getLogger(__name__)


def name_samples(outputs: Arrays, column: str, known: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the samples, and the place of each cell's sample among them.

    Args:
        outputs: arrays by name, ``obs/COLUMN`` among them where the file has it.
        column: of the samples.
        known: (n,) bool, cells that can be read.

    Returns:
        Sorted names and (n,) places, -1 for cells without a sample or that cannot be read. Where the file has no such
        column, all cells are one sample, ``all cells``.
    """
    named = outputs.get(OBS + column)
    if named is None:
        return ["all cells"], np.where(known, 0, -1)
    usable = known & (named != "")
    names, codes = np.unique(named[usable].astype(str), return_inverse=True)
    place = np.full(len(known), -1)
    place[usable] = codes
    return [str(name) for name in names], place


def code_types(named: np.ndarray, types: Sequence[str]) -> np.ndarray:
    """(n,) place of each name among the types that a head knows, -1 for others."""
    codes = {name: i for i, name in enumerate(types)}
    return np.array([codes.get(str(name), -1) for name in named])


def read_types(outputs: Arrays, column: str, types: Sequence[str], n: int) -> np.ndarray:
    """(n,) the same from the arrays by name; -1 everywhere, with a warning, where the file has no such column."""
    named = outputs.get(OBS + column)
    if named is None:
        log.warning("The cells have no obs column %r: no mean of a type is subtracted.", column)
        return np.full(n, -1)
    return code_types(named, types)


def first_values(named: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """(n,) text of the first cell of each sample."""
    return np.array([str(named[np.flatnonzero(place == i)[0]]) for i in range(n)], dtype=object)
