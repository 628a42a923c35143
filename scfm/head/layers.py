"""The small network between the state of a cell and the output of a head."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def perceptron(sizes: Sequence[int], *, dropout: float = 0.0, norm: bool = True) -> nn.Sequential:
    """Linear layers with GELU between them, after a LayerNorm of the input.

    The normalization is over the entries of one cell, so that the output does not depend on other cells.

    Args:
        sizes: widths from the input to the output; two make a linear layer.
        dropout: before each linear layer.
        norm: whether the input is normalized.
    """
    layers: list[nn.Module] = [nn.LayerNorm(sizes[0])] if norm else []
    for i, (before, after) in enumerate(pairwise(sizes)):
        layers += [nn.GELU()] if i else []
        layers += [nn.Dropout(dropout)] if dropout else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)
