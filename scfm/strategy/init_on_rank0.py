"""Models that only the first rank builds: the others allocate nothing and receive their part of each parameter."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


@contextmanager
def build_on_first_rank(rank: int) -> Iterator[None]:
    """A block in which rank 0 builds modules and the others allocate nothing (``torch.device("meta")``)."""
    if rank == 0:
        yield
    else:
        with torch.device("meta"):
            yield


def allocate(tensor: Tensor, device: torch.device) -> None:
    """Allocate memory for an empty tensor in place, uninitialized; tied weights stay tied."""
    if tensor.is_meta:
        made = torch.empty_like(tensor, device=device)
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        torch.utils.swap_tensors(tensor, made)


def send_buffers(module: nn.Module, device: torch.device) -> None:
    """Copy the buffers of the first rank (tables, masks: small, not sharded) to every rank."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is None:
                continue
            mine = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            distributed.broadcast(mine, src=0)
            owner._buffers[name] = mine
