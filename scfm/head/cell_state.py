"""What a head reads of a cell: the backbone's embedding and, beside it, linear components of its genes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.gene_components import GeneBag, Score
from scfm.head.survey import Survey
from scfm.model.pooling import embed
from scfm.types import Backbone, Spec
from scfm.vocab import Vocab


class CellState(nn.Module):
    """Normalised embedding of the backbone, then ``genes`` components of :class:`~scfm.head.gene_components.GeneBag`.

    No normalisation looks at other cells, so that what a cell becomes never depends on its company.

    Args:
        spec: vocabulary and width D.
        genes: number of components k.
        context: the backbone reads this many tokens of a cell at most, the most expressed; the components read all of
            them. None: both read all.
        score: how much a gene adds to the components, see :class:`~scfm.head.gene_components.GeneBag`.

    Attributes:
        deep: D.
        width: D + k.

    Raises:
        ValueError: a negative number of components, or no room for a gene.
    """

    def __init__(self, spec: Spec, genes: int = 0, context: int | None = None, *, score: Score = "linear") -> None:
        super().__init__()
        if context is not None and context < 3:
            raise ValueError(f"head.context={context}; expected at least 3 tokens, or null for all")
        self.context = context
        if genes < 0:
            raise ValueError(f"head.genes={genes}; expected a number of components, 0 for the backbone alone")
        self.vocab, self.deep, self.width = spec.vocab, spec.width, spec.width + genes
        self.norm = nn.LayerNorm(spec.width)
        self.bag = GeneBag(spec.vocab, genes, score)

    def prepare(self, survey: Survey) -> None:
        """Fit the components on the training cells; see :meth:`GeneBag.prepare`."""
        self.bag.prepare(survey)

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(B, D + k)."""
        return self.beside(embed(backbone, self.view(batch), self.vocab), batch)

    def beside(self, embedding: Tensor, batch: Batch) -> Tensor:
        """The same, (B, D + k), where the backbone's embedding (B, D) is known."""
        deep = self.norm(embedding.to(self.norm.weight.dtype))
        return torch.cat([deep, self.bag(batch).to(deep.dtype)], dim=1) if self.bag.size else deep

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        if self.context is None or batch.longest <= self.context:
            return batch
        return shortened(batch, self.context, self.vocab)

    @torch.no_grad()
    def of(self, survey: Survey) -> np.ndarray:
        """The same of the surveyed cells, (n, D + k) float32, before any training."""
        deep = self.norm.cpu()(torch.from_numpy(survey.embedding)).numpy()
        if self.bag.size == 0:
            return deep
        assert survey.tokens is not None, "prepare comes first"
        places = np.arange(len(survey.rows))
        counts = None if survey.counts is None else survey.counts(places)
        return np.column_stack([deep, self.bag.of(survey.tokens(places), counts)])

    def space(self, survey: Survey) -> np.ndarray:
        """Where neighbours of the surveyed cells are sought: the components, or the embedding where there are none."""
        return self.of(survey)[:, self.deep :] if self.bag.size else survey.embedding


def shortened(batch: Batch, longest: int, vocab: Vocab) -> Batch:
    """Cells cut to their first tokens, as a tokenizer of that length had cut them: a closing eos stays.

    Args:
        batch: packed cells.
        longest: tokens of a cell, at most.
        vocab: says which token is eos.
    """
    eos = vocab.specials.get("eos")
    closing = torch.zeros_like(batch.ids, dtype=torch.bool) if eos is None else batch.ids == eos
    keep = (batch.positions < longest - (eos is not None)) | closing
    return replace(batch.select_tokens(keep.nonzero().squeeze(1)), longest=min(batch.longest, longest))
