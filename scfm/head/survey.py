"""The cells before fine-tuning: what a head may read before its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scfm.types import Ragged


@dataclass(frozen=True)
class Survey:
    """Cells before fine-tuning: the argument of :meth:`scfm.head.base.Head.prepare`.

    Attributes:
        rows: (n,) int64, ascending: their rows in the store.
        train: (n,) bool: training cells. A head may fit on these alone; the others may be read.
        embedding: (n, D) float32, by the pretrained backbone.
        obs: the columns that the head names in ``labels``, (n,) each; class codes (-1 = missing) or numbers.
        names: (n,) names of the cells.
        tokens: a function of places 0 to n - 1 that returns the token ids of these cells; None where there are none.
        counts: a function of places that returns the counts of these tokens, (T,) float32; None where the head needs
            none.
        fields: by kind of second modality that the head reads, a function of places that returns its values as
            :meth:`scfm.store.token_store.TokenStore.field` does.
        groups: (n,) donors or the like, whose cells stay together where cells are divided; None where there are none.
    """

    rows: np.ndarray
    train: np.ndarray
    embedding: np.ndarray
    obs: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: Sequence[str] = ()
    tokens: Callable[[np.ndarray], Ragged] | None = None
    counts: Callable[[np.ndarray], np.ndarray] | None = None
    groups: np.ndarray | None = None
    fields: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)

    @property
    def train_groups(self) -> np.ndarray | None:
        """The groups of the training cells."""
        return None if self.groups is None else self.groups[self.train]

    def __post_init__(self) -> None:
        damaged = np.isnan(self.embedding).any(axis=1)
        if damaged.any():
            raise ValueError(
                f"{int(damaged.sum())} of {len(damaged)} cells have an embedding with NaN (first: row "
                f"{self.rows[damaged][0]} of the store); the checkpoint is damaged or its training diverged: use "
                "another one"
            )


def build_row_table(rows: np.ndarray, values: np.ndarray, *, missing: float = -1) -> np.ndarray:
    """A table indexed by store row.

    Args:
        rows: (n,) store rows.
        values: (n, ...) one entry for each.
        missing: the entry of all other rows.

    Returns:
        (largest row + 1, ...).
    """
    table = np.full((int(rows.max()) + 1, *values.shape[1:]), missing, dtype=values.dtype)
    table[rows] = values
    return table


def lookup_rows(table: Tensor, rows: Tensor, *, missing: float = -1) -> Tensor:
    """Entries of a table indexed by store row, (B, ...); ``missing`` for rows beyond its end."""
    known = rows < len(table)
    entries = table[torch.where(known, rows, torch.zeros_like(rows))]
    shape = (-1, *[1] * (entries.dim() - 1))
    return torch.where(known.view(shape), entries, torch.full_like(entries, missing))
