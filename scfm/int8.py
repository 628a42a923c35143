"""Weights as 8-bit numbers with a scale for each row: a quarter of the file, read back as float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: Ends of the names under which a matrix is stored.
VALUES, SCALE = ".int8", ".int8_scale"
#: Smaller tensors stay as they are.
SMALLEST = 1024


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 (R, ...) and scale (R,) float32 of a matrix: x ≈ scale · value, each row's largest entry at ±127.

    Args:
        matrix: (R, ...) floats.

    Example:
        >>> values, scale = quantize_rows(torch.tensor([[1.0, -2.0]]))
        >>> values.tolist(), round(float(scale), 5)
        ([[64, -127]], 0.01575)
    """
    flat = matrix.detach().float().flatten(1)
    scale = flat.abs().amax(dim=1).clamp(min=1e-12) / 127
    values = (flat / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return values.view(matrix.shape), scale


def pack_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a file: floating matrices of 1,024 entries or more as int8 and scale, all else as it is.

    Args:
        weights: by name; tensors that share their memory are stored once under each name.
    """
    packed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.ndim < 2 or value.numel() < SMALLEST or not value.is_floating_point():
            packed[name] = value
            continue
        packed[f"{name}{VALUES}"], packed[f"{name}{SCALE}"] = quantize_rows(value)
    return packed


def unpack_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`pack_weights`, float32; weights that are not packed stay as they are.

    Raises:
        ValueError: values without their scale, or of another shape or type.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(SCALE):
            continue
        if not name.endswith(VALUES):
            found[name] = value
            continue
        plain = name.removesuffix(VALUES)
        scale = weights.get(f"{plain}{SCALE}")
        if scale is None or value.dtype != torch.int8 or value.ndim < 2 or scale.shape != value.shape[:1]:
            raise ValueError(f"{plain} is stored as 8-bit numbers without a scale for each of its rows")
        found[plain] = value.float() * scale.float().view(-1, *[1] * (value.ndim - 1))
    return found
