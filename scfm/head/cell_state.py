"""What a head reads of a cell: the backbone's embedding and, beside it, linear components of its genes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Head
from scfm.head.gene_components import GeneComponents, GeneScore
from scfm.head.survey import Survey
from scfm.head.variable_components import VariableComponents
from scfm.model.pooling import embed
from scfm.types import Backbone, Spec
from scfm.vocab import Vocab

#: The fewest tokens that leave room for a gene between two specials.
MIN_TOKENS = 3


#: ``head.variable_components``: a number, or ``auto``, which scfm-finetune replaces by one.
Components = int | Literal["auto"]


class CellState(nn.Module):
    """The normalized embedding of the backbone, then k gene components, then m components of variable genes.

    The normalization is over the entries of one cell, so that the state of a cell does not depend on other cells.

    Args:
        spec: vocabulary and width D.
        gene_components: number of components k.
        max_tokens: the backbone reads at most this many tokens of a cell, the most expressed; the components read all
            of them. None: both read all.
        score: how much a gene adds to the components, see :class:`~scfm.head.gene_components.GeneComponents`.
        variable_components: number of components m of variable genes, which need counts
            (:class:`~scfm.head.variable_components.VariableComponents`).
        scaled: whether these genes are scaled.
        batch_key: obs column inside whose batches these genes vary; None: over all cells.

    Attributes:
        deep: D.
        width: D + k + m.
        blocks: widths of the parts that a linear layer penalizes separately: D, k, m, those above 0.
        counts: whether it reads counts.

    Raises:
        ValueError: a negative number of components, no number, or no room for a gene.
    """

    def __init__(
        self,
        spec: Spec,
        gene_components: int = 0,
        max_tokens: int | None = None,
        *,
        score: GeneScore = "linear",
        variable_components: Components = 0,
        scaled: bool = True,
        batch_key: str | None = None,
    ) -> None:
        super().__init__()
        if max_tokens is not None and max_tokens < MIN_TOKENS:
            raise ValueError(f"head.max_tokens={max_tokens}; expected at least {MIN_TOKENS} tokens, or null for all")
        if gene_components < 0:
            raise ValueError(
                f"head.gene_components={gene_components}; expected a number of components, 0 for the backbone alone"
            )
        if variable_components == "auto" or variable_components < 0:
            raise ValueError(
                f"head.variable_components={variable_components}; expected a number of components, 0 for none "
                "(scfm-finetune replaces auto where the store keeps counts)"
            )
        self.max_tokens = max_tokens
        self.vocab, self.deep = spec.vocab, spec.width
        self.blocks = tuple(width for width in (spec.width, gene_components, variable_components) if width)
        self.width, self.counts = sum(self.blocks), bool(variable_components) or (score == "counts")
        self.norm = nn.LayerNorm(spec.width)
        self.components = GeneComponents(spec.vocab, gene_components, score)
        self.variable = (
            VariableComponents(spec.vocab, variable_components, scaled=scaled, batch_key=batch_key)
            if variable_components
            else None
        )

    def prepare(self, survey: Survey) -> None:
        """Fit the components on the training cells."""
        self.components.prepare(survey)
        if self.variable is not None:
            self.variable.prepare(survey)

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The state, (B, D + k + m)."""
        return self.join(embed(backbone, self.view(batch), self.vocab), batch)

    def join(self, embedding: Tensor, batch: Batch) -> Tensor:
        """The state, (B, D + k + m), from an embedding of the backbone (B, D) that is already computed."""
        deep = self.norm(embedding.to(self.norm.weight.dtype))
        parts = [deep]
        if self.components.width:
            parts.append(self.components(batch).to(deep.dtype))
        if self.variable is not None:
            parts.append(self.variable(batch).to(deep.dtype))
        return torch.cat(parts, dim=1)

    def view(self, batch: Batch) -> Batch:
        """The part of a batch that the backbone reads."""
        if self.max_tokens is None or batch.longest <= self.max_tokens:
            return batch
        return shorten(batch, self.max_tokens, self.vocab)

    @torch.no_grad()
    def from_survey(self, survey: Survey) -> np.ndarray:
        """The state of the surveyed cells, (n, D + k + m) float32, before any training."""
        parts = [self.norm.cpu()(torch.from_numpy(survey.embedding)).numpy()]
        wide = [part for part in (self.components, self.variable) if part is not None and part.width]
        if wide:
            assert survey.tokens is not None, "prepare comes first"
            places = np.arange(len(survey.rows))
            tokens, counts = survey.tokens(places), None if survey.counts is None else survey.counts(places)
            parts += [part.transform(tokens, counts) for part in wide]
        return np.column_stack(parts)

    def search_space(self, survey: Survey) -> np.ndarray:
        """The space in which neighbors are sought: the components, or the embedding where there are none."""
        return self.from_survey(survey)[:, self.deep :] if self.width > self.deep else survey.embedding


class StateHead(Head):
    """A head that reads the ``state`` of cells: the hooks that follow from it."""

    state: CellState

    def view(self, batch: Batch) -> Batch:
        """The part of a batch that the backbone reads."""
        return self.state.view(batch)

    def prepare(self, survey: Survey) -> None:
        """Fit the gene components on the training cells."""
        self.state.prepare(survey)


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
