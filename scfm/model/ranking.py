"""Ranks of packed cells made again after their counts have changed."""

from __future__ import annotations

import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.vocab import Vocab

#: Roles of special tokens that stand before and after a cell's genes.
BEFORE, AFTER = ("cls", "bos"), ("eos",)


def places(batch: Batch, vocab: Vocab) -> Tensor:
    """-1 for specials that stand before a cell's genes, 1 for those after, 0 for all other tokens; (T,) int64."""
    table = torch.zeros(len(vocab), dtype=torch.int64)
    for roles, place in ((BEFORE, -1), (AFTER, 1)):
        for role in roles:
            if role in vocab.specials:
                table[vocab.specials[role]] = place
    return table.to(batch.ids.device)[batch.ids]


def rank_again(batch: Batch, counts: Tensor, vocab: Vocab, scale: Tensor) -> Batch:
    """The cells with other counts, their genes ranked again as the tokenizer ranks them.

    Genes whose count falls to 0 are removed; a cell that would lose all keeps its first.

    Args:
        batch: packed cells that carry counts.
        counts: (T,) the other counts.
        vocab: says which tokens are special; these stay in their places.
        scale: (V,) float64, what the tokenizer divides the counts of a token by.
    """
    assert batch.counts is not None, "ranks are made again from counts"
    place, cell = places(batch, vocab), batch.token_cell
    gene = place == 0
    bare = torch.zeros(batch.n_cells, device=counts.device).index_add(0, cell, counts * gene) == 0
    first = gene & (nth_gene(cell, gene, batch.n_cells) == 0)
    counts = torch.where(first & bare[cell], batch.counts.clamp(min=1), counts)
    value = counts.double() / scale.to(counts.device)[batch.ids]
    order = batch.ids.argsort(stable=True)  # the tokenizers give ties to the smaller id
    order = order[(-value)[order].argsort(stable=True)]
    order = order[(cell * 3 + place + 1)[order].argsort(stable=True)]
    kept = (~gene | (counts > 0))[order]
    return batch.with_token_field("counts", counts).select_tokens(order[kept])


def divide_counts(
    batch: Batch, vocab: Vocab, scale: Tensor, smallest: float, generator: torch.Generator
) -> tuple[Batch, Batch]:
    """Two halves of every cell without a shared count: n = a + b, a ~ Binomial(n, u), u ~ U(smallest, 1 - smallest).

    For Poisson counts the halves are independent given the cell (data thinning, Neufeld et al. 2024). u is one number
    for each cell.

    Args:
        batch: packed cells that carry counts.
        vocab: says which tokens are special.
        scale: see :func:`rank_again`.
        smallest: see above.
        generator: of the draws.
    """
    assert batch.counts is not None, "halves are drawn from counts"
    share = smallest + (1 - 2 * smallest) * torch.rand(batch.n_cells, generator=generator, device=batch.ids.device)
    one = torch.binomial(batch.counts, share[batch.token_cell], generator=generator)
    return rank_again(batch, one, vocab, scale), rank_again(batch, batch.counts - one, vocab, scale)


def nth_gene(cell: Tensor, gene: Tensor, n_cells: int) -> Tensor:
    """How many genes of the same cell stand before each token, (T,)."""
    before = gene.long().cumsum(0) - gene.long()
    count = count_tokens(cell, gene, n_cells)
    return before - (count.cumsum(0) - count)[cell]


def count_tokens(cell: Tensor, chosen: Tensor, n_cells: int) -> Tensor:
    """How many of the chosen tokens each cell has, (B,)."""
    return torch.zeros(n_cells, dtype=torch.int64, device=cell.device).index_add(0, cell, chosen.long())
