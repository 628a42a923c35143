"""Momentum contrast (MoCo, He et al. 2020): keys of a slowly following network, kept in a queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from scfm.head.integration.contrast import contrast, same_batch


class Follower:
    """Weights that follow those of a network: ``momentum`` of themselves and the rest of its own, at every update.

    Only weights that are trained are followed. They begin as the network's, at the first update and after a resume.

    Args:
        momentum: share that stays.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.weights: list[Tensor] = []

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move towards the network's trained parameters, which are the same at every call.

        Raises:
            ValueError: they are divided over the ranks.
        """
        trained = [p for p in parameters if p.requires_grad]
        if any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in trained):
            raise ValueError("head.queue follows whole weights: use strategy=ddp or one device, or set head.queue=0")
        if not self.weights:
            self.weights = [p.detach().clone() for p in trained]
        for own, theirs in zip(self.weights, trained, strict=True):
            own.lerp_(theirs.detach(), 1 - self.momentum)

    @contextmanager
    def in_place(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """While this lasts, the network has these weights and no gradient; copied, for graphs that know addresses."""
        trained = [p for p in parameters if p.requires_grad]
        kept = [p.detach().clone() for p in trained]
        torch.clear_autocast_cache()  # casts of the one must not serve the other
        try:
            with torch.no_grad():
                for p, own in zip(trained, self.weights, strict=True):
                    p.data.copy_(own)
                yield
        finally:
            for p, value in zip(trained, kept, strict=True):
                p.data.copy_(value)
            torch.clear_autocast_cache()


class KeyQueue(nn.Module):
    """The last keys with their experimental batches; negatives of queries of the same batch.

    Plain buffers, empty after a resume; any number of cells may be added at a time. Under DDP all ranks use the first
    one's, handed out before each step as all buffers are.

    Args:
        length: keys that are kept.
        width: of a key.
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
        """Keep keys (B, d) of cells of batches (B,) in the place of the oldest."""
        length = len(self.keys)
        keys, batches = keys[-length:], batches[-length:]
        place = (self.next + torch.arange(len(keys), device=self.keys.device)) % length
        self.keys[place], self.batches[place] = keys.to(self.keys.dtype), batches
        self.next = (self.next + len(keys)) % length

    def loss(self, query: Tensor, positive: Tensor, batches: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Loss and accuracy: L = −log e^{q·k⁺/T} / (e^{q·k⁺/T} + Σ e^{q·k/T}), k in the queue and of q's batch.

        Args:
            query: (B, d) unit vectors.
            positive: (B, d) unit vectors, k⁺.
            batches: (B,) codes, -1 where missing: such cells have no negatives.
            temperature: T.
        """
        allowed = same_batch(batches, self.batches)
        return contrast(query, positive, self.keys.clone(), allowed, temperature=temperature)
