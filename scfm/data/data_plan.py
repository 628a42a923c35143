"""What of a store a run reads, and how: decided once, then frozen."""

from __future__ import annotations

from dataclasses import dataclass

from scfm.data.split import Split
from scfm.types import Sampling


@dataclass(frozen=True)
class DataPlan:
    """What batches carry and which cells make them.

    Attributes:
        split: rows of the store by part, those kept for calibration included.
        tokens_per_batch: budget of one micro-batch on one device.
        labels: obs columns that batches carry.
        counts: whether batches carry the counts behind their tokens.
        sampling: how a head composes its micro-batches; None mixes all cells.
        fields: second modalities that batches carry.
    """

    split: Split
    tokens_per_batch: int
    labels: tuple[str, ...] = ()
    counts: bool = False
    sampling: Sampling | None = None
    fields: tuple[str, ...] = ()
