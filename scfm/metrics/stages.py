"""Stages of a process: names in an order, or numbers."""

from collections.abc import Iterable, Sequence

import numpy as np


def order_stages(names: Iterable[str]) -> tuple[str, ...]:
    """Names that are numbers, in the order of the numbers.

    Raises:
        ValueError: a name that is no finite number.
    """
    numbers = {name: float(name) for name in names}
    if not np.isfinite(list(numbers.values())).all():
        raise ValueError("a stage is NaN or infinite")
    return tuple(sorted(numbers, key=numbers.__getitem__))


def stage_ranks(values: np.ndarray, stages: Sequence[str]) -> np.ndarray:
    """(B,) the rank of each name among the stages, from 0 for the first; NaN for what is no stage."""
    place = {name: float(rank) for rank, name in enumerate(stages)}
    return np.array([place.get(str(value), np.nan) for value in values], dtype=np.float64)
