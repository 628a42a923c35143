"""Momentum contrast (MoCo, He et al. 2020): keys of a moving average of the network, kept in a queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from scfm.model.contrast import contrast, same_batch


class Follower:
    """A moving average of a network's trained weights.

    It begins with the network's weights, at the first update and after a resume.

    Args:
        momentum: share of the average that an update leaves unchanged.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.weights: list[Tensor] = []

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move toward the network's trained parameters, which must be the same at every call.

        Raises:
            ValueError: the parameters are divided over the ranks.
        """
        trained = [p for p in parameters if p.requires_grad]
        if any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in trained):
            raise ValueError("head.queue averages whole weights: use strategy=ddp or one device, or set head.queue=0")
        if not self.weights:
            self.weights = [p.detach().clone() for p in trained]
        for average, theirs in zip(self.weights, trained, strict=True):
            average.lerp_(theirs.detach(), 1 - self.momentum)

    @contextmanager
    def swap_in(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Give the network these weights, without gradient, within a ``with`` block.

        The values are copied in place, because captured graphs refer to addresses.
        """
        trained = [p for p in parameters if p.requires_grad]
        kept = [p.detach().clone() for p in trained]
        torch.clear_autocast_cache()  # casts of one set of weights must not be used for the other
        try:
            with torch.no_grad():
                for p, average in zip(trained, self.weights, strict=True):
                    p.data.copy_(average)
                yield
        finally:
            for p, value in zip(trained, kept, strict=True):
                p.data.copy_(value)
            torch.clear_autocast_cache()


class KeyQueue(nn.Module):
    """The last keys with their experimental batches: negatives for queries of the same batch.

    The queue is empty after a resume. Under DDP all ranks use the queue of the first, which is broadcast before each
    step like all buffers.

    Args:
        length: number of keys that are kept.
        width: width of a key.
    """

    keys: Tensor
    batches: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, width), persistent=False)
        self.register_buffer("batches", torch.full((length,), -1), persistent=False)
        self.next = 0

    @torch.no_grad()
    def add(self, keys: Tensor, batches: Tensor) -> None:
        """Replace the oldest keys by keys (B, d) of cells of batches (B,)."""
        length = len(self.keys)
        keys, batches = keys[-length:], batches[-length:]
        place = (self.next + torch.arange(len(keys), device=self.keys.device)) % length
        self.keys[place], self.batches[place] = keys.to(self.keys.dtype), batches
        self.next = (self.next + len(keys)) % length

    def share_with_negatives(self, batches: Tensor) -> Tensor:
        """Share of cells of batches (B,) that have a key of their own batch in the queue."""
        return same_batch(batches, self.batches).any(1).float().mean()

    def loss(self, query: Tensor, positive: Tensor, batches: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Loss and accuracy: L = −log e^{q·k⁺/T} / (e^{q·k⁺/T} + Σ e^{q·k/T}), k the keys of q's batch in the queue.

        Args:
            query: (B, d) unit vectors.
            positive: (B, d) unit vectors, k⁺.
            batches: (B,) codes, -1 where missing: such cells have no negatives.
            temperature: T.
        """
        allowed = same_batch(batches, self.batches)
        return contrast(query, positive, self.keys.clone(), allowed, temperature=temperature)
