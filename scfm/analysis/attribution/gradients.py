"""Gradients and integrated gradients of a number that a model gives for each cell, by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from scfm.batch import INPUT_VECTORS, PRESENCE, Batch
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab

#: A number for each cell, (B,), differentiable in the input vectors and the presence of tokens.
CellScore: TypeAlias = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Attribution:
    """What tokens add to a number.

    Attributes:
        tokens: (T,), 0 for special tokens.
        error: (B,) sum of the tokens of a cell minus the difference that they should explain.
        difference: (B,) the number of the cell minus that of the cell without genes.
    """

    tokens: Tensor
    error: Tensor
    difference: Tensor

    @property
    def relative_error(self) -> float:
        """Mean |error| in units of the mean |difference|."""
        return float(self.error.abs().mean() / self.difference.abs().mean().clamp(min=1e-12))


class Presence:
    """Cells whose genes are more or less there.

    At presence p the backbone reads p · (input vector of the gene) + (1 − p) · (reference vector), and linear gene
    components count the gene p times. The reference is the vector of the mask token, where the vocabulary has one, else
    the mean vector of all genes. Special tokens are always there.

    Args:
        backbone: in evaluation mode.
        vocab: says which tokens are genes.
    """

    def __init__(self, backbone: Backbone, vocab: Vocab) -> None:
        self.backbone = backbone
        device = next(backbone.parameters()).device
        self.genes = torch.from_numpy(vocab.gene_ids).to(device)
        with torch.no_grad():
            if "mask" in vocab.specials:
                self.reference = backbone.input_vectors(torch.tensor([vocab.specials["mask"]], device=device))[0]
            else:
                self.reference = backbone.input_vectors(self.genes).mean(0)

    def set(self, batch: Batch, presence: Tensor) -> Batch:
        """The batch with its genes at ``presence`` (T,), or () for all of them."""
        gene = torch.isin(batch.ids, self.genes)
        presence = torch.where(gene, presence, torch.ones((), device=batch.ids.device))
        vectors = self.backbone.input_vectors(batch.ids).detach()
        mixed = self.reference + presence[:, None] * (vectors - self.reference)
        return batch.with_token_field(INPUT_VECTORS, mixed).with_token_field(PRESENCE, presence)

    def gradient(self, score: CellScore, batch: Batch, presence: float = 1.0) -> Tensor:
        """(T,) slope of the score in the presence of each token, all genes at ``presence``; 0 for special tokens."""
        level = torch.full((batch.n_tokens,), presence, device=batch.ids.device, requires_grad=True)
        with torch.enable_grad():
            total = score(self.set(batch, level)).sum()
            return torch.autograd.grad(total, level)[0]


def integrated_gradients(presence: Presence, score: CellScore, batch: Batch, n_steps: int = 32) -> Attribution:
    """What each gene adds to a score on the straight way from a cell without genes to the cell.

    IG_t = ∫_0^1 ∂F/∂p_t dα at p = (α, …, α), by the midpoint rule (Sundararajan, Taly & Yan 2017, equation 1, summed
    over the width). The genes of a cell sum to F(cell) − F(no genes) up to the error of the rule, which is returned.

    Args:
        presence: how genes are taken away.
        score: F.
        batch: packed cells.
        n_steps: points of the rule.
    """
    total = torch.zeros(batch.n_tokens, device=batch.ids.device)
    for step in range(n_steps):
        total += presence.gradient(score, batch, (step + 0.5) / n_steps)
    tokens = total / n_steps
    with torch.no_grad():
        here, gone = (
            score(presence.set(batch, torch.full((), level, device=batch.ids.device))) for level in (1.0, 0.0)
        )
    explained = torch.zeros(batch.n_cells, device=batch.ids.device).index_add(0, batch.token_cell, tokens)
    return Attribution(tokens, explained - (here - gone), here - gone)
