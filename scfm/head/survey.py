"""What a head may look at before it is trained: all cells as the pretrained backbone sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scfm.types import Ragged


@dataclass(frozen=True)
class Survey:
    """Cells before fine-tuning. A head with a method ``prepare(survey)`` is handed one before the first step.

    Attributes:
        rows: (n,) int64, ascending: their rows in the store.
        train: (n,) bool: training cells. Only these may be fitted on; the others may be looked up.
        embedding: (n, D) float32, frozen: the pretrained backbone's.
        obs: (n,) each: the columns that the head names in ``labels``; class codes (-1 = missing) or numbers.
        names: (n,) names of the cells.
        tokens: gives the token ids of some of the cells, by their place 0 to n - 1; None where there are none.
        counts: likewise the counts beside these tokens, (T,) float32; None where the head needs none.
    """

    rows: np.ndarray
    train: np.ndarray
    embedding: np.ndarray
    obs: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: Sequence[str] = ()
    tokens: Callable[[np.ndarray], Ragged] | None = None
    counts: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        lost = np.isnan(self.embedding).any(axis=1)
        if lost.any():
            raise ValueError(
                f"{int(lost.sum())} of {len(lost)} cells have an embedding with NaN (first: row "
                f"{self.rows[lost][0]} of the store); the checkpoint is damaged or its training diverged"
            )


def scattered(rows: np.ndarray, values: np.ndarray, *, missing: float = -1) -> np.ndarray:
    """A table by store row of what is known of some rows.

    Args:
        rows: (n,) store rows.
        values: (n, ...) one entry for each.
        missing: what stands at all other rows.

    Returns:
        (largest row + 1, ...).
    """
    table = np.full((int(rows.max()) + 1, *values.shape[1:]), missing, dtype=values.dtype)
    table[rows] = values
    return table


def looked_up(table: Tensor, rows: Tensor, *, missing: float = -1) -> Tensor:
    """Entries of a table by store row, (B, ...); ``missing`` for rows beyond its end."""
    known = rows < len(table)
    found = table[torch.where(known, rows, torch.zeros_like(rows))]
    shape = (-1, *[1] * (found.dim() - 1))
    return torch.where(known.view(shape), found, torch.full_like(found, missing))
