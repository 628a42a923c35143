"""A backbone with more tokens or more positions than the one whose weights it takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from scfm.model.backbone import Backbone


@torch.no_grad()
def copy_weights(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Give a backbone the weights of a smaller one; rows that the smaller one does not have stay as they are.

    Args:
        backbone: changed in place.
        weights: state dict of a backbone that differs in its number of tokens or positions alone, and has no more.

    Raises:
        ValueError: the names differ, or a tensor is larger, or differs in more than its first axis.
    """
    state = backbone.state_dict()
    differing = sorted(state.keys() ^ weights.keys())
    if differing:
        raise ValueError(f"the weights are of another model: {', '.join(differing[:5])} is not in both")
    for name, value in weights.items():
        mine = state[name]
        fits = mine.shape[1:] == value.shape[1:] and mine.ndim == value.ndim
        if not fits or (mine.ndim and len(value) > len(mine)):
            raise ValueError(
                f"the weights are of another model: {name} is {tuple(value.shape)} there and {tuple(mine.shape)} here"
            )
        (mine[: len(value)] if mine.ndim else mine).copy_(value)


@torch.no_grad()
def place_genes(backbone: Backbone, neighbors: Mapping[int, np.ndarray]) -> None:
    """Put tokens at the mean of other tokens: in the input table, and in the output table where it is another.

    Args:
        backbone: changed in place.
        neighbors: ids of the others by id; those of one token are weighted equally.
    """
    tables: list[nn.Parameter] = []
    for table in (backbone.model.get_input_embeddings().weight, *backbone.decoder.parameters(recurse=False)):
        if isinstance(table, nn.Parameter) and all(table is not other for other in tables):
            tables.append(table)
    for table in tables:
        means = {token: table[torch.from_numpy(others)].mean(0) for token, others in neighbors.items()}
        for token, mean in means.items():
            table[token] = mean
