"""Cross-entropy over a large vocabulary, without the scores of all tokens in memory at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scfm.objective.score import IGNORE
from scfm.types import Backbone


def chunk_size(device: torch.device) -> int:
    """Default number of tokens scored at once: larger products are faster on a GPU."""
    return 512 if device.type == "cpu" else 4096


def chunked_loss(
    backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor, chunk: int | None = None
) -> torch.Tensor:
    """Sum of the cross-entropies of scored hidden states, ``chunk`` tokens at a time.

    Args:
        backbone: scores hidden states.
        hidden: (N, D).
        targets: (N,) ids, :data:`~scfm.objective.score.IGNORE` where there is none.
        chunk: tokens scored at once; by default :func:`chunk_size`.

    Returns:
        Scalar float32.
    """
    chunk = chunk or chunk_size(hidden.device)
    decoder = getattr(backbone, "decoder", None)
    if type(decoder) is nn.Linear and not hasattr(decoder.weight, "ds_id"):
        hidden = backbone.transform(hidden)  # type: ignore[attr-defined]
        return _Chunked.apply(hidden, decoder.weight, decoder.bias, targets, chunk)
    # an adapted decoder, or one whose weights DeepSpeed gathers only during its own forward
    if len(hidden) <= chunk:
        return _loss(backbone, hidden, targets)
    loss = torch.zeros((), device=hidden.device)
    for rows, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        loss = loss + checkpoint(_loss, backbone, rows, ids, use_reentrant=False, preserve_rng_state=False)
    return loss


def _loss(backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(backbone.logits(hidden).float(), targets, ignore_index=IGNORE, reduction="sum")


class _Chunked(torch.autograd.Function):
    """Linear layer and summed cross-entropy; gradients are computed while the scores of a chunk are in memory.

    Scores are computed in autocast's type where it is on; probabilities, the loss and the weight's gradient are float32
    (torch's own ``linear_cross_entropy`` returns its loss in the type of its input: 3 digits in bfloat16).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        """See :func:`chunked_loss`."""
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        wanted = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        room = _aligned(min(chunk, len(hidden)), len(weight), hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows, ids = hidden[start : start + chunk], targets[start : start + chunk]
                scores = _scores(rows, weight, bias, room[: len(rows)])
                part, slope = _loss_and_slope(scores.float(), ids)
                loss += part
                if d_bias is not None:
                    d_bias += slope.sum(0)
                slope = slope if slope.dtype == scores.dtype else scores.copy_(slope)
                if d_hidden is not None:
                    torch.mm(slope, weight, out=d_hidden[start : start + chunk])
                if wanted[1]:
                    d_weight = _add_product(d_weight, slope, rows)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients of the forward pass, in place: autograd refuses a second backward pass."""
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (*(None if d is None else d.mul_(grad).to(dtype) for d, dtype in pairs), None, None)


def _aligned(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """An uninitialized (rows, columns) matrix whose rows begin at multiples of 64 bytes.

    Matrix products that write or read it are nearly twice as fast as with 20,275 contiguous columns.
    """
    step = 64 // like.element_size()
    return like.new_empty(rows, -(-columns // step) * step)[:, :columns]


def _scores(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """``F.linear`` into an existing matrix."""
    if bias is None:
        return torch.mm(rows, weight.t(), out=out)
    return torch.addmm(bias, rows, weight.t(), out=out)


def _loss_and_slope(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of (N, V) float32 scores, and its gradient, which overwrites them."""
    real = (targets != IGNORE).unsqueeze(1)
    ids = targets.clamp(min=0).unsqueeze(1)
    scores.sub_(scores.amax(1, keepdim=True))
    own = scores.gather(1, ids)
    total = scores.exp_().sum(1, keepdim=True)
    loss = (total.log() - own).where(real, 0).sum()
    slope = scores.div_(total.masked_fill(~real, torch.inf))
    return loss, slope.scatter_add_(1, ids, -real.to(slope.dtype))


def _add_product(total: torch.Tensor | None, slope: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``total + slope.T @ rows`` in float32, in place where there is a total."""
    if total is None:
        return (slope.T @ rows).float()
    if total.dtype == rows.dtype:
        return total.addmm_(slope.T, rows)
    return total.add_(slope.T @ rows)
