"""Views of packed cells: what a cell could have looked like had it been measured again.

Tokens allow dropping genes, jittering their ranks and cutting the context, all done for the whole packed row at once.
Binomial thinning of counts, which emulates depth, must come before ranking: it needs each token's count *and* the
scale that its gene was divided by, and belongs in front of :meth:`Views.__call__` once batches carry both. Thinning
counts and keeping the ranks would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scfm.types import Batch
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

    Raises:
        ValueError: a number out of its range.
    """

    vocab: Vocab
    drop: float = 0.1
    jitter: float = 2.0
    context: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"head.drop={self.drop}; expected a share of genes to leave out, 0 <= drop < 1")
        if self.jitter < 0:
            raise ValueError(f"head.jitter={self.jitter}; expected a number of ranks, 0 or more")
        if not 0 < self.context <= 1:
            raise ValueError(f"head.context={self.context}; expected a share above 0, at most 1")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """One view of every cell; call it again with the same generator for another."""
        place = places(batch, self.vocab)
        gene = place == 0
        cell = cells_of(batch)
        device = batch.ids.device
        rank = batch.positions + self.jitter * (2 * torch.rand(batch.n_tokens, generator=generator, device=device) - 1)
        ticket = torch.rand(batch.n_tokens, generator=generator, device=device)
        share = self.context + (1 - self.context) * torch.rand(batch.n_cells, generator=generator, device=device)
        order = _sorted(cell, place, rank)
        nth = _nth_gene(cell, gene[order], batch.n_cells)
        n_genes = _count(cell, gene, batch.n_cells)
        within = nth < torch.ceil(share * n_genes)[cell]
        keep = ~gene[order] | (within & ((ticket >= self.drop) | (nth == 0)))
        return select(batch, order[keep])


def generator_of(batch: Batch) -> torch.Generator:
    """The random numbers of a batch: a pure function of its seed."""
    return torch.Generator(batch.ids.device).manual_seed(batch.seed)


def cells_of(batch: Batch) -> Tensor:
    """(T,) int64, the cell of each token."""
    cells = torch.arange(batch.n_cells, device=batch.ids.device)
    return torch.repeat_interleave(cells, batch.lengths, output_size=batch.n_tokens)


def places(batch: Batch, vocab: Vocab) -> Tensor:
    """(T,) int64: -1 for specials that stand before a cell's genes, 1 for those after, 0 for all else."""
    table = torch.zeros(len(vocab), dtype=torch.int64)
    for roles, place in ((BEFORE, -1), (AFTER, 1)):
        for role in roles:
            if role in vocab.specials:
                table[vocab.specials[role]] = place
    return table.to(batch.ids.device)[batch.ids]


def select(batch: Batch, tokens: Tensor) -> Batch:
    """A batch of some of its tokens, ascending by cell; every cell keeps its place.

    ``longest`` stays as an upper bound, which is all that attention needs and spares a wait for the GPU.
    """
    cell = cells_of(batch)[tokens]
    lengths = torch.bincount(cell, minlength=batch.n_cells)
    ends = lengths.cumsum(0)
    starts = (ends - lengths)[cell]
    return replace(
        batch,
        ids=batch.ids[tokens],
        positions=torch.arange(len(tokens), device=tokens.device) - starts,
        boundaries=torch.cat([ends.new_zeros(1), ends]).to(batch.boundaries.dtype),
        counts=None if batch.counts is None else batch.counts[tokens],
    )


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
