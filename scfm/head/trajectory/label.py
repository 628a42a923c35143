"""Numbers and ordered stages read from obs columns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scfm.metrics.stages import order_stages
from scfm.types import Spec


def parse_numbers(spec: Spec, label: str) -> Tensor | None:
    """The numbers that the categories of a column name, (C,) float32; None for a numeric column.

    Raises:
        ValueError: categories that are no numbers.
    """
    names = spec.classes.get(label)
    if names is None:
        return None
    try:
        return torch.tensor([float(name) for name in names])
    except ValueError as error:
        raise ValueError(
            f"head.label={label!r} is not a time: its categories are {', '.join(names[:6])}; give a column of numbers, "
            "or use head=trajectory/ordinal with head.stages=[first,...,last]"
        ) from error


def ordered_stages(spec: Spec, label: str, stages: list[str] | None) -> tuple[str, ...]:
    """The stages from first to last.

    Args:
        spec: the categories of the column.
        label: obs column.
        stages: their order; None for the order of numbers.

    Raises:
        ValueError: no such column, fewer than two stages, an order that does not name every category once, or
            categories that are no numbers and have no given order.
    """
    names = spec.categories("head.label", label)
    if stages is None:
        try:
            stages = list(order_stages(names))
        except ValueError as error:
            raise ValueError(
                f"the stages of {label!r} are no numbers ({', '.join(names[:6])}): give their order with "
                "head.stages=[first,...,last]"
            ) from error
    if sorted(stages) != sorted(names):
        wrong = sorted(set(names) ^ set(stages)) or sorted({stage for stage in stages if stages.count(stage) > 1})
        raise ValueError(
            f"head.stages must name every category of {label!r} once ({', '.join(names[:8])}), from first to last; "
            f"wrong are: {', '.join(wrong[:8])}"
        )
    if len(stages) < 2:
        raise ValueError(f"{label!r} has the single stage {stages[0]!r}; expected at least two")
    return tuple(stages)


def check_fate(spec: Spec, fate: str | None) -> tuple[str, ...]:
    """Names of the terminal states; none where ``fate`` is None.

    Raises:
        ValueError: no such column, or a single terminal state.
    """
    if fate is None:
        return ()
    names = spec.categories("head.fate", fate)
    if len(names) < 2:
        raise ValueError(
            f"head.fate={fate!r} has a single terminal state; fates need at least two: the column names the terminal "
            "state of terminal cells and is empty elsewhere"
        )
    return names


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    """Rank correlation over cells where both values are known; nan for fewer than three cells or constant values."""
    from scipy.stats import spearmanr

    known = np.isfinite(one) & np.isfinite(two)
    if known.sum() < 3 or np.ptp(one[known]) == 0 or np.ptp(two[known]) == 0:
        return float("nan")
    return float(spearmanr(one[known], two[known]).statistic)
