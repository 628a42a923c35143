"""Attention over packed rows, registered with transformers under the name ``scfm_packed``.

Importing this module is enough: a transformers model whose ``attn_implementation`` is ``scfm_packed`` then takes a row
of cells ``(1, T)`` with ``boundaries`` and ``longest`` as keywords of its forward, and no token sees another cell's.
Two paths compute the same thing: ``varlen`` (CUDA, half precision; one kernel for the whole row) and ``sdpa``
(anywhere; neighboring cells of equal length are one call). :func:`attention_path` says which one runs and why. A
third, slow one keeps the weights of every head, where a caller hands in a list for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

varlen_attn: Any
try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.11
    varlen_attn = None
else:
    varlen_attn = varlen.varlen_attn

log = logging.getLogger(__name__)

NAME = "scfm_packed"


def _arguments(kernel: Callable[..., Any] | None) -> frozenset[str]:
    return frozenset() if kernel is None else frozenset(signature(kernel).parameters)


#: The arguments that this torch's kernel has; they changed from release to release.
VARLEN_ARGUMENTS = _arguments(varlen_attn)


def _varlen_refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the varlen kernel cannot run, or None."""
    if device.type != "cuda":
        return f"it needs a CUDA device and this is {device.type}"
    if varlen_attn is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen (2.11 or newer has)"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it needs float16 or bfloat16 and this is {str(dtype).removeprefix('torch.')} (precision=bf16-mixed)"
    if head_dim % 8 or head_dim > 256:
        return f"it needs a head dimension that is a multiple of 8 up to 256 and this is {head_dim}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"it needs compute capability 8.0 (A100) or newer and this GPU has {major}.{minor}"
    return None


@lru_cache(maxsize=64)
def attention_path(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, str]:
    """Which attention runs, and why the other was refused. Logged once for each kind of input.

    Args:
        device: where queries, keys and values lie.
        dtype: their type (under autocast, the type that autocast gives).
        head_dim: width of one head.

    Returns:
        ``(name, reason)``; the name is ``"varlen"`` or ``"sdpa"``.
    """
    refusal = _varlen_refusal(device, dtype, head_dim)
    if refusal is None:
        path = ("varlen", "one varlen kernel for the whole row; it has no dropout, so attention dropout is 0")
    else:
        path = ("sdpa", f"scaled_dot_product_attention cell by cell; varlen was refused: {refusal}")
    level = logging.DEBUG if device.type == "cpu" else logging.INFO  # a CPU leaves no choice
    log.log(level, "attention on %s in %s: %s (%s)", device, str(dtype).removeprefix("torch."), *path)
    return path


@torch.compiler.assume_constant_result
def _runs_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    return attention_path(device, dtype, head_dim)[0] == "varlen"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    boundaries: torch.Tensor | None = None,
    longest: int = 0,
    dropout: float = 0.0,
    scaling: float | None = None,
    attention_maps: list[list[torch.Tensor]] | None = None,
    mean_heads: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each cell of a packed row: the function that transformers' models call.

    Args:
        module: the attention layer; ``module.is_causal`` says whether a token sees only what is before it.
        query: (1, heads, T, head_dim).
        key: (1, key heads, T, head_dim).
        value: like ``key``.
        attention_mask: None; boundaries take its place.
        boundaries: (B+1,) int32, where each cell begins, and T.
        longest: tokens of the longest cell.
        dropout: of the attention weights; ignored on the varlen path, which has none.
        scaling: of the scores; ``head_dim ** -0.5`` by default.
        attention_maps: gets the weights of this layer, (heads, L, L) of each cell; None keeps none.
        mean_heads: whether it gets the mean of the heads, (1, L, L), instead.
        **kwargs: what else the model passes; only a sliding window would change the result.

    Returns:
        (1, T, heads, head_dim), and None in place of the weights.

    Raises:
        ValueError: no boundaries, a padded batch or mask, or a sliding window.
    """
    if boundaries is None:
        raise ValueError(f"{NAME} attention needs the keywords boundaries and longest; call the model through Backbone")
    if query.shape[0] != 1 or attention_mask is not None:
        raise ValueError(f"{NAME} attention takes one packed row without a mask, not a batch of {query.shape[0]} rows")
    if kwargs.get("sliding_window") is not None:
        raise ValueError(f"{NAME} attention has no sliding window; set it to null in the model's options")
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = bool(getattr(module, "is_causal", False))
    if attention_maps is not None:
        out, maps = _with_weights(query, key, value, boundaries, causal, scaling, mean_heads)
        attention_maps.append(maps)
        return out, None
    if _runs_varlen(query.device, query.dtype, query.shape[-1]):
        return _whole_row(query, key, value, boundaries, longest, causal, scaling), None
    return _cell_by_cell(query, key, value, boundaries, causal, scaling, dropout), None


def _whole_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """The varlen kernel, whose arguments changed from torch to torch."""
    assert varlen_attn is not None
    options: dict[str, Any] = {}
    if causal:
        options |= {"window_size": (-1, 0)} if "window_size" in VARLEN_ARGUMENTS else {"is_causal": True}
    if scaling is not None:
        if "scale" in VARLEN_ARGUMENTS:
            options["scale"] = scaling
        else:
            query = query * (scaling * query.shape[-1] ** 0.5)
    rows = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return varlen_attn(*rows, boundaries, boundaries, longest, longest, **options)[None]


@torch.compiler.disable
def _cell_by_cell(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    causal: bool,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """SDPA for each run of neighbors of equal length.

    Runs need no copy. Bringing all equal lengths together, or padding lengths to a few sizes under a mask, costs as
    much in copies as it saves in calls: measured on lengths from 5 to 3000, one core, the best of them gains 12 %.
    """
    runs = [(length, len(list(cells))) for length, cells in groupby(boundaries.diff().tolist()) if length]
    sizes = [length * cells for length, cells in runs]

    def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        row = x.squeeze(0).transpose(0, 1)  # the gradient of x[0] would be a copy into zeros
        return row.split(sizes) if len(sizes) > 1 else (row,)

    done = []
    for (length, cells), *row in zip(runs, split(query), split(key), split(value), strict=True):
        q, k, v = (x.unflatten(0, (cells, length)).transpose(1, 2) for x in row)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, scale=scaling)
        done.append(out.transpose(1, 2).flatten(0, 1))
    return (torch.cat(done) if len(done) > 1 else done[0])[None]


def _with_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    causal: bool,
    scaling: float | None,
    mean_heads: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Attention cell by cell without dropout, and the weights (heads or 1, L, L) of each cell, query × key."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    done, maps = [], []
    rows = (x.squeeze(0).split(boundaries.diff().tolist(), dim=1) for x in (query, key, value))
    for q, k, v in zip(*rows, strict=True):
        scores = (q @ k.transpose(1, 2)).float() * scale
        if causal:
            later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        weights = scores.softmax(-1)
        maps.append(weights.mean(0, keepdim=True) if mean_heads else weights)
        done.append((weights.to(v.dtype) @ v).transpose(0, 1))
    return torch.cat(done)[None], maps


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Boundaries take the mask's place."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
