"""Models that only the first rank holds whole: built there, empty elsewhere, and handed out parameter by parameter."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


@contextmanager
def built_on_first_rank(rank: int) -> Iterator[None]:
    """Inside, rank 0 builds modules as always and the others allocate nothing (``torch.device("meta")``)."""
    if rank == 0:
        yield
    else:
        with torch.device("meta"):
            yield


def allocate(tensor: Tensor, device: torch.device) -> None:
    """Give an empty tensor memory of unset content, in place: whoever shares it (tied weights) shares the memory."""
    if tensor.is_meta:
        made = torch.empty_like(tensor, device=device)
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        torch.utils.swap_tensors(tensor, made)


def send_buffers(module: nn.Module, device: torch.device) -> None:
    """Every rank gets the first rank's buffers (tables, masks: small, and not sharded)."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is None:
                continue
            mine = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            distributed.broadcast(mine, src=0)
            owner._buffers[name] = mine
