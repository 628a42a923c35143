"""Fewer layers, and fewer columns of the feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.model.pooling import embed
from scfm.vocab import Vocab


def mean_embeddings(backbone: Backbone, batches: Sequence[Batch], vocab: Vocab) -> Tensor:
    """(n, D) float32 embeddings of the cells of some batches."""
    with torch.inference_mode():
        return torch.cat([embed(backbone, batch, vocab).float() for batch in batches])


def drop_layers(backbone: Backbone, n_layers: int, batches: Sequence[Batch], vocab: Vocab) -> list[int]:
    """Take layers out, one at a time: each time the one whose removal changes the embeddings least (1 − cos).

    Args:
        backbone: changed in place, in evaluation mode.
        n_layers: to keep, at least 1.
        batches: cells to judge by.
        vocab: says which tokens are special.

    Returns:
        Places of the removed layers in the original, in the order of their removal.

    Raises:
        ValueError: fewer than 1 layer, or not fewer than there are.
    """
    if not 1 <= n_layers < backbone.n_layers:
        raise ValueError(f"layers={n_layers} of a model with {backbone.n_layers}; expected fewer, at least 1")
    whole = mean_embeddings(backbone, batches, vocab)
    places, removed = list(range(backbone.n_layers)), []
    while backbone.n_layers > n_layers:
        losses = []
        for layer in range(backbone.n_layers):
            taken = _take_out(backbone, layer)
            losses.append(float(1 - F.cosine_similarity(mean_embeddings(backbone, batches, vocab), whole).mean()))
            _put_back(backbone, layer, taken)
        least = min(range(len(losses)), key=losses.__getitem__)
        _take_out(backbone, least)
        removed.append(places.pop(least))
    return removed


def _take_out(backbone: Backbone, layer: int) -> nn.Module:
    layers = backbone.layers
    taken = layers[layer]
    del layers[layer]
    _count_layers(backbone, len(layers))
    return taken


def _put_back(backbone: Backbone, layer: int, taken: nn.Module) -> None:
    layers = backbone.layers
    layers.insert(layer, taken)
    _count_layers(backbone, len(layers))


def _count_layers(backbone: Backbone, n: int) -> None:
    """Keep what counts the layers in step with the list of them."""
    backbone.n_layers = n
    for name in ("num_hidden_layers", "n_layer"):
        if hasattr(backbone.config, name):
            setattr(backbone.config, name, n)


def feedforward_pairs(backbone: Backbone) -> list[tuple[nn.Module, nn.Module]]:
    """The two linear maps of each layer's feed-forward part, D → F and F → D.

    Raises:
        ValueError: an architecture whose feed-forward part is not known here.
    """
    found = []
    for layer in backbone.layers:
        named = dict(layer.named_modules())
        for first, second in (("intermediate.dense", "output.dense"), ("mlp.c_fc", "mlp.c_proj")):
            if first in named and second in named:
                found.append((named[first], named[second]))
                break
        else:
            raise ValueError(
                f"{type(layer).__name__} has a feed-forward part of an unknown kind; leave feedforward out"
            )
    return found


def drop_columns(
    backbone: Backbone, n_columns: int, batches: Sequence[Batch], loss: Callable[[Backbone, Batch], Tensor]
) -> None:
    """Keep the columns of each feed-forward layer with the largest |Σ w · ∂L/∂w| (Michel et al. 2019).

    Args:
        backbone: changed in place.
        n_columns: of every layer.
        batches: cells on which the gradient is taken.
        loss: of a batch.

    Raises:
        ValueError: not fewer columns than there are, or fewer than 1.
    """
    if not 1 <= n_columns < backbone.feedforward:
        raise ValueError(f"feedforward={n_columns} of a model with {backbone.feedforward}; expected fewer, at least 1")
    pairs = feedforward_pairs(backbone)
    backbone.zero_grad(set_to_none=True)
    for batch in batches:
        (loss(backbone, batch) / len(batches)).backward()
    for first, second in pairs:
        along = 0 if isinstance(first, nn.Linear) else 1  # transformers' Conv1D stores D x F
        worth = _salience(first, along) + _salience(second, 1 - along)
        kept = worth.abs().topk(n_columns).indices.sort().values
        _keep(first, along, kept, bias=True)
        _keep(second, 1 - along, kept, bias=False)
    backbone.zero_grad(set_to_none=True)
    backbone.feedforward = n_columns


def _salience(module: nn.Module, along: int) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.grad is None:
        return weight.new_zeros(weight.shape[along])
    return (weight * weight.grad).detach().sum(1 - along)


def _keep(module: nn.Module, along: int, kept: Tensor, *, bias: bool) -> None:
    weight, offset = module.weight, module.bias
    assert isinstance(weight, Tensor)
    module.weight = nn.Parameter(weight.detach().index_select(along, kept).clone())
    if bias and isinstance(offset, Tensor):
        module.bias = nn.Parameter(offset.detach()[kept].clone())
    for name, axis in (("in_features", 1), ("out_features", 0)):
        if hasattr(module, name):
            setattr(module, name, module.weight.shape[axis])
    if hasattr(module, "nf"):
        module.nf = int(module.weight.shape[1])  # type: ignore[assignment]
