"""Views of packed cells: what a cell could have looked like had it been measured again.

Tokens allow dropping genes, jittering their ranks and cutting the context, all done for the whole packed row at once.
Binomial thinning of counts, which emulates depth, comes before ranking: where batches carry counts, they are thinned
and the genes ranked anew, as the tokenizer would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.vocab import Vocab

#: Roles of special tokens that stand before and after a cell's genes.
BEFORE, AFTER = ("cls", "bos"), ("eos",)


@dataclass(frozen=True)
class Views:
    """Draws random views.

    A view keeps special tokens and at least one gene of each cell; ranks close up, so positions run without gaps.

    Args:
        vocab: says which tokens are special.
        drop: probability of leaving out a gene.
        jitter: genes are sorted by rank + U(-jitter, jitter) instead of rank.
        context: the shortest share of a cell's genes that is kept, drawn uniformly from (context, 1) for each cell.
        thin: the smallest share of a cell's counts that is kept, drawn uniformly from (thin, 1) for each cell; 1 leaves
            counts alone.
        scale: (V,) what the tokenizer divides the counts of a token by; None for 1.

    Raises:
        ValueError: a number out of its range.
    """

    vocab: Vocab
    drop: float = 0.1
    jitter: float = 2.0
    context: float = 0.5
    thin: float = 1.0
    scale: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"head.drop={self.drop}; expected a share of genes to leave out, 0 <= drop < 1")
        if self.jitter < 0:
            raise ValueError(f"head.jitter={self.jitter}; expected a number of ranks, 0 or more")
        if not 0 < self.context <= 1:
            raise ValueError(f"head.context={self.context}; expected a share above 0, at most 1")
        if not 0 < self.thin <= 1:
            raise ValueError(f"head.thin={self.thin}; expected a share above 0, at most 1")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """One view of every cell; call it again with the same generator for another."""
        if self.thin < 1:
            batch = self.thinned(batch, generator)
        place = places(batch, self.vocab)
        gene = place == 0
        cell = batch.token_cell
        device = batch.ids.device
        rank = batch.positions + self.jitter * (2 * torch.rand(batch.n_tokens, generator=generator, device=device) - 1)
        ticket = torch.rand(batch.n_tokens, generator=generator, device=device)
        share = self.context + (1 - self.context) * torch.rand(batch.n_cells, generator=generator, device=device)
        order = _sorted(cell, place, rank)
        nth = _nth_gene(cell, gene[order], batch.n_cells)
        n_genes = _count(cell, gene, batch.n_cells)
        within = nth < torch.ceil(share * n_genes)[cell]
        keep = ~gene[order] | (within & ((ticket >= self.drop) | (nth == 0)))
        return batch.select_tokens(order[keep])

    def thinned(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cells measured less deeply: each count drawn from Binomial(count, share of the cell), genes ranked anew.

        Genes without a count left are gone; a cell that would lose all keeps its first.

        Raises:
            ValueError: the batch carries no counts.
        """
        if batch.counts is None:
            raise ValueError(
                f"head.thin={self.thin} thins counts, but the store keeps ranks only: prepare it again with "
                "keep_counts=true, or set head.thin=1"
            )
        place, cell, device = places(batch, self.vocab), batch.token_cell, batch.ids.device
        share = self.thin + (1 - self.thin) * torch.rand(batch.n_cells, generator=generator, device=device)
        counts = torch.binomial(batch.counts, share[cell], generator=generator)
        gene = place == 0
        bare = torch.zeros(batch.n_cells, device=device).index_add(0, cell, counts * gene) == 0
        first = gene & (_nth_gene(cell, gene, batch.n_cells) == 0)
        counts = torch.where(first & bare[cell], batch.counts.clamp(min=1), counts)
        scale = torch.ones(len(self.vocab)) if self.scale is None else torch.from_numpy(self.scale)
        value = counts.double() / scale.double().to(device)[batch.ids]
        order = batch.ids.argsort(stable=True)  # the tokenizers give ties to the smaller id
        order = order[(-value)[order].argsort(stable=True)]
        order = order[(cell * 3 + place + 1)[order].argsort(stable=True)]
        kept = (~gene | (counts > 0))[order]
        return batch.with_token_field("counts", counts).select_tokens(order[kept])


def generator_of(batch: Batch) -> torch.Generator:
    """The random numbers of a batch: a pure function of its seed."""
    return torch.Generator(batch.ids.device).manual_seed(batch.seed)


def places(batch: Batch, vocab: Vocab) -> Tensor:
    """(T,) int64: -1 for specials that stand before a cell's genes, 1 for those after, 0 for all else."""
    table = torch.zeros(len(vocab), dtype=torch.int64)
    for roles, place in ((BEFORE, -1), (AFTER, 1)):
        for role in roles:
            if role in vocab.specials:
                table[vocab.specials[role]] = place
    return table.to(batch.ids.device)[batch.ids]


def _sorted(cell: Tensor, place: Tensor, rank: Tensor) -> Tensor:
    """(T,) the tokens sorted by cell, then place, then rank; stable."""
    order = rank.argsort(stable=True)
    return order[(cell * 3 + place + 1)[order].argsort(stable=True)]


def _count(cell: Tensor, chosen: Tensor, n_cells: int) -> Tensor:
    """(B,) how many of the chosen tokens each cell has."""
    return torch.zeros(n_cells, dtype=torch.int64, device=cell.device).index_add(0, cell, chosen.long())


def _nth_gene(cell: Tensor, gene: Tensor, n_cells: int) -> Tensor:
    """(T,) how many genes of the same cell stand before each token."""
    before = gene.long().cumsum(0) - gene.long()
    count = _count(cell, gene, n_cells)
    return before - (count.cumsum(0) - count)[cell]
