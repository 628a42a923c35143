"""A backbone that reads the same cells once, for prediction, where embedding and head each ask for them."""

from typing import Any

import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.types import Backbone


class CachedBackbone:
    """Stands in for a backbone and keeps the hidden states of the last batch.

    For evaluation mode alone, in which the same cells have the same states.

    Args:
        backbone: what runs, and has every other attribute.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._kept: tuple[Batch, int, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def __call__(self, batch: Batch) -> Tensor:
        """Last hidden states, (T, D)."""
        return self.hidden(batch, -1)

    def hidden(self, batch: Batch, layer: int) -> Tensor:
        """Hidden states after ``layer``, (T, D); computed where the cells or the layer are others than the last."""
        if self._kept is None or self._kept[1] != layer or not _same_cells(self._kept[0], batch):
            self._kept = batch, layer, self._backbone.hidden(batch, layer)
        return self._kept[2]

    def forget(self) -> None:
        """Run the backbone again for the next batch: something about it has changed that the cells do not show."""
        self._kept = None


def _same_cells(one: Batch, other: Batch) -> bool:
    if one is other:
        return True
    return torch.equal(one.ids, other.ids) and torch.equal(one.boundaries, other.boundaries)
