"""Views of packed cells: random variants of a cell, such as a second measurement could have given.

Genes are left out, their ranks jittered and the least expressed cut off, for the whole packed row at once. Where
batches carry counts, binomial thinning emulates a shallower measurement: counts are thinned and the genes ranked again,
as the tokenizer ranks them.
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
class ViewOptions:
    """How far a view may differ from its cell: the config node ``head.view``.

    Args:
        drop: probability of leaving out a gene.
        jitter: genes are sorted by rank + U(-jitter, jitter) instead of rank.
        min_share: smallest share of a cell's genes that is kept; the share is drawn uniformly from (min_share, 1) for
            each cell, and the most expressed genes stay.
        min_depth: smallest share of a cell's counts that is kept; the share is drawn uniformly from (min_depth, 1) for
            each cell. 1 leaves counts alone; below 1 it needs a store with counts.

    Raises:
        ValueError: a number out of its range.
    """

    drop: float = 0.2
    jitter: float = 2.0
    min_share: float = 0.5
    min_depth: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"head.view.drop={self.drop}; expected a share of genes to leave out, 0 <= drop < 1")
        if self.jitter < 0:
            raise ValueError(f"head.view.jitter={self.jitter}; expected a number of ranks, 0 or more")
        for name, value in (("min_share", self.min_share), ("min_depth", self.min_depth)):
            if not 0 < value <= 1:
                raise ValueError(f"head.view.{name}={value}; expected a share above 0, at most 1")


@dataclass(frozen=True)
class Views:
    """Draws random views.

    A view keeps special tokens and at least one gene of each cell. Positions run without gaps.

    Args:
        options: how far a view may differ from its cell.
        vocab: defines which tokens are special.
        scale: (V,) what the tokenizer divides the counts of a token by; None for 1.
    """

    options: ViewOptions
    vocab: Vocab
    scale: np.ndarray | None = None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """One view of every cell; call it again with the same generator for another."""
        options = self.options
        if options.min_depth < 1:
            batch = self.thin_counts(batch, generator)
        place = places(batch, self.vocab)
        gene = place == 0
        cell = batch.token_cell
        device = batch.ids.device
        noise = 2 * torch.rand(batch.n_tokens, generator=generator, device=device) - 1
        rank = batch.positions + options.jitter * noise
        ticket = torch.rand(batch.n_tokens, generator=generator, device=device)
        drawn = torch.rand(batch.n_cells, generator=generator, device=device)
        share = options.min_share + (1 - options.min_share) * drawn
        order = _sort_tokens(cell, place, rank)
        nth = _nth_gene(cell, gene[order], batch.n_cells)
        n_genes = _count(cell, gene, batch.n_cells)
        within = nth < torch.ceil(share * n_genes)[cell]
        keep = ~gene[order] | (within & ((ticket >= options.drop) | (nth == 0)))
        return batch.select_tokens(order[keep])

    def thin_counts(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cells measured less deeply: each count is drawn from Binomial(count, share of the cell).

        Genes are ranked again. Genes whose count falls to 0 are removed; a cell that would lose all keeps its first.

        Raises:
            ValueError: the batch carries no counts.
        """
        minimum = self.options.min_depth
        if batch.counts is None:
            raise ValueError(
                f"head.view.min_depth={minimum} thins counts, but the store keeps ranks only: prepare it again with "
                "keep_counts=true, or set head.view.min_depth=1"
            )
        place, cell, device = places(batch, self.vocab), batch.token_cell, batch.ids.device
        share = minimum + (1 - minimum) * torch.rand(batch.n_cells, generator=generator, device=device)
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


def batch_generator(batch: Batch) -> torch.Generator:
    """A generator of random numbers that depends on the seed of the batch alone."""
    return torch.Generator(batch.ids.device).manual_seed(batch.seed)


def places(batch: Batch, vocab: Vocab) -> Tensor:
    """-1 for specials that stand before a cell's genes, 1 for those after, 0 for all other tokens; (T,) int64."""
    table = torch.zeros(len(vocab), dtype=torch.int64)
    for roles, place in ((BEFORE, -1), (AFTER, 1)):
        for role in roles:
            if role in vocab.specials:
                table[vocab.specials[role]] = place
    return table.to(batch.ids.device)[batch.ids]


def _sort_tokens(cell: Tensor, place: Tensor, rank: Tensor) -> Tensor:
    """The tokens sorted by cell, then place, then rank, (T,); stable."""
    order = rank.argsort(stable=True)
    return order[(cell * 3 + place + 1)[order].argsort(stable=True)]


def _count(cell: Tensor, chosen: Tensor, n_cells: int) -> Tensor:
    """How many of the chosen tokens each cell has, (B,)."""
    return torch.zeros(n_cells, dtype=torch.int64, device=cell.device).index_add(0, cell, chosen.long())


def _nth_gene(cell: Tensor, gene: Tensor, n_cells: int) -> Tensor:
    """How many genes of the same cell stand before each token, (T,)."""
    before = gene.long().cumsum(0) - gene.long()
    count = _count(cell, gene, n_cells)
    return before - (count.cumsum(0) - count)[cell]
