"""Rows of one constant length, for compiled and captured graphs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from scfm.types import Batch

#: The number of cells is rounded up to a multiple of this: few shapes, and few empty cells.
CELLS = 64


def top_up(batch: Batch, row: int, longest: int) -> Batch:
    """Fill a row up to a constant number of tokens with dummy cells, which no real cell sees.

    Args:
        batch: packed cells.
        row: tokens that the result has.
        longest: tokens that a dummy cell has at most; it becomes the batch's ``longest``, so that this is constant too.

    Returns:
        A batch for the model alone: ids, positions and boundaries are longer (the last boundaries are empty cells),
        the rest is that of the real cells.

    Raises:
        ValueError: the batch has more tokens than that.
    """
    missing = row - batch.n_tokens
    if missing < 0:
        raise ValueError(
            f"a batch has {batch.n_tokens} tokens, but model.row={row}; it must be at least data.tokens_per_batch "
            "and as long as the longest cell"
        )
    dummies = -(-missing // longest)
    n_cells = -(-(batch.n_cells + dummies) // CELLS) * CELLS
    steps = torch.arange(1, n_cells - batch.n_cells + 1, dtype=torch.int32, device=batch.boundaries.device)
    return replace(
        batch,
        ids=F.pad(batch.ids, (0, missing)),
        positions=F.pad(batch.positions, (0, missing)),
        boundaries=torch.cat([batch.boundaries, (batch.n_tokens + steps * longest).clamp(max=row)]),
        longest=longest,
    )
