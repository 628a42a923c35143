"""What a head reads of a cell: the backbone's embedding and, beside it, linear components of its genes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Head
from scfm.head.gene_components import GeneComponents, GeneScore
from scfm.head.survey import Survey
from scfm.model.pooling import embed
from scfm.types import Backbone, Spec
from scfm.vocab import Vocab

#: The fewest tokens that leave room for a gene between two specials.
MIN_TOKENS = 3


class CellState(nn.Module):
    """The normalized embedding of the backbone, then k gene components.

    The normalization is over the entries of one cell, so that the state of a cell does not depend on other cells.

    Args:
        spec: vocabulary and width D.
        gene_components: number of components k.
        max_tokens: the backbone reads at most this many tokens of a cell, the most expressed; the components read all
            of them. None: both read all.
        score: how much a gene adds to the components, see :class:`~scfm.head.gene_components.GeneComponents`.

    Attributes:
        deep: D.
        width: D + k.

    Raises:
        ValueError: a negative number of components, or no room for a gene.
    """

    def __init__(
        self, spec: Spec, gene_components: int = 0, max_tokens: int | None = None, *, score: GeneScore = "linear"
    ) -> None:
        super().__init__()
        if max_tokens is not None and max_tokens < MIN_TOKENS:
            raise ValueError(f"head.max_tokens={max_tokens}; expected at least {MIN_TOKENS} tokens, or null for all")
        if gene_components < 0:
            raise ValueError(
                f"head.gene_components={gene_components}; expected a number of components, 0 for the backbone alone"
            )
        self.max_tokens = max_tokens
        self.vocab, self.deep, self.width = spec.vocab, spec.width, spec.width + gene_components
        self.norm = nn.LayerNorm(spec.width)
        self.components = GeneComponents(spec.vocab, gene_components, score)

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The state, (B, D + k)."""
        return self.join(embed(backbone, self.view(batch), self.vocab), batch)

    def join(self, embedding: Tensor, batch: Batch) -> Tensor:
        """The state, (B, D + k), from an embedding of the backbone (B, D) that is already computed."""
        deep = self.norm(embedding.to(self.norm.weight.dtype))
        return torch.cat([deep, self.components(batch).to(deep.dtype)], dim=1) if self.components.width else deep

    def view(self, batch: Batch) -> Batch:
        """The part of a batch that the backbone reads."""
        if self.max_tokens is None or batch.longest <= self.max_tokens:
            return batch
        return shorten(batch, self.max_tokens, self.vocab)

    @torch.no_grad()
    def from_survey(self, survey: Survey) -> np.ndarray:
        """The state of the surveyed cells, (n, D + k) float32, before any training."""
        deep = self.norm.cpu()(torch.from_numpy(survey.embedding)).numpy()
        if self.components.width == 0:
            return deep
        assert survey.tokens is not None, "prepare comes first"
        places = np.arange(len(survey.rows))
        counts = None if survey.counts is None else survey.counts(places)
        return np.column_stack([deep, self.components.transform(survey.tokens(places), counts)])

    def search_space(self, survey: Survey) -> np.ndarray:
        """The space in which neighbors are sought: the components, or the embedding where there are none."""
        return self.from_survey(survey)[:, self.deep :] if self.components.width else survey.embedding


class StateHead(Head):
    """A head that reads the ``state`` of cells: the hooks that follow from it."""

    state: CellState

    def view(self, batch: Batch) -> Batch:
        """The part of a batch that the backbone reads."""
        return self.state.view(batch)

    def prepare(self, survey: Survey) -> None:
        """Fit the gene components on the training cells."""
        self.state.components.prepare(survey)


def shorten(batch: Batch, max_tokens: int, vocab: Vocab) -> Batch:
    """Cells cut to their first tokens, as a tokenizer with that maximum length cuts them: a closing eos stays.

    Args:
        batch: packed cells.
        max_tokens: tokens of a cell, at most.
        vocab: defines which token is eos.
    """
    eos = vocab.specials.get("eos")
    closing = torch.zeros_like(batch.ids, dtype=torch.bool) if eos is None else batch.ids == eos
    keep = (batch.positions < max_tokens - (eos is not None)) | closing
    return replace(batch.select_tokens(keep.nonzero().squeeze(1)), longest=min(batch.longest, max_tokens))
