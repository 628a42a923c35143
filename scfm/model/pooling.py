"""Cell embeddings from hidden states."""

from __future__ import annotations

from typing import Literal

import torch

from scfm.batch import INPUT_VECTORS, Batch
from scfm.model.denoiser import Denoiser
from scfm.model.readout import Readout
from scfm.types import Backbone
from scfm.vocab import Vocab

Pool = Literal["mean", "cls", "first", "all"]
#: Every ``embedding_pool``; the last two have weights, which a model is made with.
POOLS = ("mean", "all", "cls", "first", "weighted", "denoised")


def pool(hidden: torch.Tensor, batch: Batch, how: Pool, vocab: Vocab) -> torch.Tensor:
    """One vector for each cell.

    Args:
        hidden: (T, D) hidden states.
        batch: the packed cells they belong to.
        how: ``mean`` over the tokens that are not special; ``all`` over every token; ``cls`` the first token's state,
            which must be a cls token; ``first`` the first token's, whatever it is (iSEEEK's [CLS], the top gene of
            Geneformer V1).
        vocab: says which tokens are special.

    Returns:
        (B, D), of hidden's type. Zeros for a cell with no token to average, and for one without any token.

    Raises:
        ValueError: an unknown ``how``, or ``cls`` with a vocabulary that has no cls token.
    """
    if how == "cls":
        vocab.special("cls")
    if how in ("cls", "first"):
        return _first(hidden, batch)
    if how not in ("mean", "all"):
        raise ValueError(f"pool={how!r}; expected mean (over genes), all (every token), cls or first")
    weight = torch.ones_like(batch.ids, dtype=torch.float32)
    if how == "mean":
        weight = _not_special(batch.ids, vocab).float()
    return _mean(hidden, batch, weight)


def check_rule(layer: int, how: str, n_layers: int) -> None:
    """Refuse a rule of cell embeddings that a model cannot follow.

    Args:
        layer: ``embedding_layer``.
        how: ``embedding_pool``.
        n_layers: of the model.

    Raises:
        ValueError: no such layer or pooling.
    """
    if not -n_layers - 1 <= layer <= n_layers:
        raise ValueError(
            f"embedding_layer={layer} of a model with {n_layers} layers; expected {-n_layers - 1} to {n_layers} "
            "(0 = input embeddings, -1 = last layer)"
        )
    if how not in POOLS:
        raise ValueError(f"embedding_pool={how!r}; expected one of {', '.join(POOLS)}")


def embed(backbone: Backbone, batch: Batch, vocab: Vocab) -> torch.Tensor:
    """The embedding of each cell, by the backbone's own rule (``embedding_layer`` and ``embedding_pool``).

    Args:
        backbone: the model.
        batch: packed cells.
        vocab: says which tokens are special.

    Returns:
        (B, D).
    """
    short = shorten(backbone, batch)
    return read_cells(backbone, backbone.hidden(short, backbone.embedding_layer), short, vocab, batch)


def shorten(backbone: Backbone, batch: Batch) -> Batch:
    """The cells as the layers read them: the first ``layer_length`` tokens of each, or all."""
    return batch.shortened(getattr(backbone, "layer_length", None))


def read_cells(
    backbone: Backbone, hidden: torch.Tensor, batch: Batch, vocab: Vocab, whole: Batch | None = None
) -> torch.Tensor:
    """The same from hidden states (T, D) of the right layer that are already computed.

    Args:
        backbone: the model.
        hidden: of the tokens of ``batch``.
        batch: the cells as the layers read them, :func:`shorten`.
        vocab: says which tokens are special.
        whole: the cells with all their tokens, where the layers read a part.
    """
    readout: Readout | None = getattr(backbone, "readout", None)
    if isinstance(readout, Denoiser):
        denoised: torch.Tensor = readout(hidden, hidden, batch, vocab, whole)
        return denoised
    if readout is not None:
        inputs = batch.token_fields.get(INPUT_VECTORS)
        if inputs is None:
            inputs = backbone.input_vectors(batch.ids)  # type: ignore[attr-defined]
        vectors: torch.Tensor = readout(inputs, hidden, batch, vocab)
        return vectors
    return pool(hidden, batch, backbone.embedding_pool, vocab)  # type: ignore[arg-type]


def _first(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    starts = batch.boundaries[:-1].long()
    if batch.n_tokens == 0:
        return hidden.new_zeros(batch.n_cells, hidden.shape[1])
    first = hidden[starts.clamp(max=batch.n_tokens - 1)]
    return first * (batch.lengths > 0).unsqueeze(1).to(hidden.dtype)


def _not_special(ids: torch.Tensor, vocab: Vocab) -> torch.Tensor:
    special = torch.tensor(sorted(set(vocab.specials.values())), dtype=ids.dtype, device=ids.device)
    return ~torch.isin(ids, special)


def _mean(hidden: torch.Tensor, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean inside each cell, summed in float32."""
    total = torch.zeros(batch.n_cells, hidden.shape[1], dtype=torch.float32, device=hidden.device)
    total = total.index_add(0, batch.token_cell, hidden.float() * weight.unsqueeze(1))
    count = torch.zeros(batch.n_cells, dtype=torch.float32, device=hidden.device).index_add(0, batch.token_cell, weight)
    return (total / count.clamp(min=1).unsqueeze(1)).to(hidden.dtype)
