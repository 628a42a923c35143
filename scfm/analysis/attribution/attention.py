"""Attention of all heads as a score of one token for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.model.pooling import shorten
from scfm.vocab import Vocab


def mean_attention(layers: Sequence[Tensor]) -> Tensor:
    """Mean over layers and heads.

    Args:
        layers: (heads, L, L) of each layer of one cell, query × key.

    Returns:
        (L, L), query × key.
    """
    return torch.stack([layer.mean(0) for layer in layers]).mean(0)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """How much of each input token reaches each output token, by attention and residuals alone.

    Π_l (½ A_l + ½ I), later layers on the left, A_l the mean over heads (Abnar & Zuidema 2020).

    Args:
        layers: (heads, L, L) of each layer of one cell, first to last, query × key.

    Returns:
        (L, L), output × input; rows sum to 1.
    """
    length = layers[0].shape[-1]
    identity = torch.eye(length, dtype=layers[0].dtype, device=layers[0].device)
    product = identity
    for layer in layers:
        product = (layer.mean(0) + identity) / 2 @ product
    return product


def edge_scores(weights: Tensor, *, causal: bool) -> Tensor:
    """Attention as an edge from the token that is looked at to the token that looks.

    Rows of attention sum to 1, so that weights in a long cell are small: they are multiplied by its length.

    Args:
        weights: (L, L), query × key.
        causal: whether a token sees only those before it; later ones then have no score.

    Returns:
        (L, L), source (key) × target (query); NaN where the target cannot see the source.
    """
    scores = weights.T * len(weights)
    if not causal:
        return scores
    unseen = torch.ones_like(scores, dtype=torch.bool).tril(-1)
    return scores.masked_fill(unseen, torch.nan)


@torch.no_grad()
def embedding_rollout(backbone: Backbone, batch: Batch, vocab: Vocab) -> Tensor:
    """How much of each token reaches the cell's embedding, by :func:`rollout` over the layers that it is read from.

    Args:
        backbone: in evaluation mode.
        batch: packed cells.
        vocab: says which tokens are special.

    Returns:
        (T,); the tokens of a cell sum to 1, and those that the layers do not read have 0.
    """
    short = shorten(backbone, batch)
    used = backbone.embedding_layer % (backbone.n_layers + 1)
    maps = backbone.attentions(short, mean_heads=True)[:used]
    parts = []
    for number, rows in enumerate(_pool_weights(backbone, short, vocab).split(short.lengths.tolist())):
        shares = rows / rows.sum().clamp(min=1e-6)
        parts.append(shares @ rollout([layer[number] for layer in maps]) if maps else shares)
    read = torch.ones_like(batch.ids, dtype=torch.bool)
    if backbone.layer_length is not None:
        read = batch.positions < backbone.layer_length
    found = torch.zeros(batch.n_tokens, device=batch.ids.device)
    found[read] = torch.cat(parts)
    return found


def _pool_weights(backbone: Backbone, batch: Batch, vocab: Vocab) -> Tensor:
    """(T,) how much the state of each token counts in the embedding of its cell."""
    if backbone.readout is not None:
        return backbone.readout.values(batch, vocab) * backbone.readout.token_weight[batch.ids]
    if backbone.embedding_pool in ("cls", "first"):
        return (batch.positions == 0).float()
    if backbone.embedding_pool == "mean":
        special = torch.tensor(sorted(set(vocab.specials.values())), device=batch.ids.device)
        return (~torch.isin(batch.ids, special)).float()
    return torch.ones_like(batch.ids, dtype=torch.float32)
