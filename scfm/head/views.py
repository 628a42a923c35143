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
from scfm.model.ranking import count_tokens, nth_gene, places, rank_again
from scfm.vocab import Vocab


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
        nth = nth_gene(cell, gene[order], batch.n_cells)
        n_genes = count_tokens(cell, gene, batch.n_cells)
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
        share = minimum + (1 - minimum) * torch.rand(batch.n_cells, generator=generator, device=batch.ids.device)
        counts = torch.binomial(batch.counts, share[batch.token_cell], generator=generator)
        scale = torch.ones(len(self.vocab)) if self.scale is None else torch.from_numpy(self.scale)
        return rank_again(batch, counts, self.vocab, scale.double())


def batch_generator(batch: Batch) -> torch.Generator:
    """A generator of random numbers that depends on the seed of the batch alone."""
    return torch.Generator(batch.ids.device).manual_seed(batch.seed)


def _sort_tokens(cell: Tensor, place: Tensor, rank: Tensor) -> Tensor:
    """The tokens sorted by cell, then place, then rank, (T,); stable."""
    order = rank.argsort(stable=True)
    return order[(cell * 3 + place + 1)[order].argsort(stable=True)]
