"""Values that all ranks have to agree on, compared on the CPU so that no GPU waits."""

from datetime import timedelta

import pytorch_lightning as pl
import torch
from torch import distributed


class Agreement:
    """Computes maxima over the ranks.

    Args:
        trainer: of the ranks. Every rank must make the object, and call it, at the same points.
        minutes: how long to wait for the slowest rank.
    """

    def __init__(self, trainer: pl.Trainer, minutes: float = 30.0) -> None:
        self._group = None
        self._alone = trainer.world_size == 1
        if not self._alone:
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(minutes=minutes))

    def largest(self, *values: float) -> list[float]:
        """Each value's maximum over the ranks."""
        if self._alone:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX, group=self._group)
        return found.tolist()
