"""What a perturbation does to the ranked genes of one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

Operation: TypeAlias = Literal["delete", "overexpress", "scale", "mask"]


class GeneList(NamedTuple):
    """Genes that a model reads of a cell.

    Attributes:
        genes: (n,) int64 token ids by rank.
        counts: (n,) float64, the counts behind them.
    """

    genes: np.ndarray
    counts: np.ndarray

    def first(self, n: int) -> GeneList:
        """The first n genes."""
        return GeneList(self.genes[:n], self.counts[:n])

    def where(self, kept: np.ndarray) -> GeneList:
        """The genes that a mask (n,) or places (k,) choose."""
        return GeneList(self.genes[kept], self.counts[kept])


@dataclass(frozen=True)
class Ranking:
    """All genes of a cell that have a token, without special tokens.

    Attributes:
        genes: (n,) int64 token ids by rank; the model reads the first ``limit``.
        counts: (n,) float64, their counts.
        limit: genes that the model reads of a cell.
        total: counts of the cell over all its genes.
        medians: (V,) of a tokenizer that ranks by ``((x / total) * 10000) / median``; None where it ranks by counts.
        by_counts: whether the counts explain the order; the order of a tokenizer of another kind is kept.
    """

    genes: np.ndarray
    counts: np.ndarray
    limit: int
    total: float = 1.0
    medians: np.ndarray | None = None
    by_counts: bool = True

    def rank_again(self, counts: np.ndarray) -> GeneList:
        """All genes as a new tokenization ranks them, were these (n,) their counts; those of count 0 are gone.

        The total of the cell changes with them, which decides between values that are equal but for rounding.
        """
        kept = np.flatnonzero(counts > 0)
        if self.by_counts:
            values = counts
            if self.medians is not None:
                total = self.total + float((counts - self.counts).sum())
                values = counts / max(total, 1e-300) * 1e4 / self.medians[self.genes]
            kept = kept[np.lexsort((self.genes[kept], -values[kept]))]  # equal values by ascending id, as tokenizers do
        return GeneList(self.genes[kept], counts[kept])

    @property
    def all(self) -> GeneList:
        """All genes with their counts."""
        return GeneList(self.genes, self.counts)

    @property
    def listed(self) -> GeneList:
        """The genes that the model reads, with their counts."""
        return self.all.first(self.limit)

    def counts_in_front(self, genes: np.ndarray) -> np.ndarray:
        """(k,) counts with which genes rank as high as the first gene of the cell does."""
        if self.medians is None:
            return np.full(len(genes), self.counts[0])
        return self.counts[0] * self.medians[genes] / self.medians[self.genes[0]]

    @property
    def read(self) -> np.ndarray:
        """The genes that the model reads."""
        return self.genes[: self.limit]


@dataclass(frozen=True)
class Change:
    """An operation and its options.

    Attributes:
        op: ``delete`` removes genes; ``overexpress`` puts them in front, in the given order; ``scale`` multiplies their
            counts and ranks again; ``mask`` hides them behind the mask token and leaves all positions as they are.
        factor: of ``scale``: 0 deletes, infinity overexpresses.
        refill: whether the next gene of a longer cell moves up behind the last one, as a new tokenization of the
            changed counts would have it; the published code leaves the place empty.
        mask: id of the mask token.
    """

    op: Operation
    factor: float = 1.0
    refill: bool = True
    mask: int | None = None

    def apply(self, cell: Ranking, genes: tuple[int, ...]) -> tuple[GeneList, int] | None:
        """The genes that the model reads after the change, and their counts.

        A scaled gene has its scaled count; an overexpressed one the count with which it ranks as high as the first gene
        of the cell does; behind a mask there is none.

        Args:
            cell: its ranking.
            genes: that are changed together.

        Returns:
            The genes, and how many the original loses at its end so that only the perturbation differs (those that an
            overexpressed gene pushes out); None where nothing of the cell is changed: the model would say the same, and
            where no gene is left.
        """
        if self.op == "scale" and np.isinf(self.factor):
            return _overexpress(cell, tuple(gene for gene in genes if gene in cell.genes))
        if self.op == "overexpress":
            return _overexpress(cell, genes)
        hit = np.isin(cell.genes, genes)
        if self.op == "scale" and self.factor > 0:
            return self._scale(cell, hit)
        if not hit[: cell.limit].any():
            return None
        if self.op == "mask":
            assert self.mask is not None, "the analysis asked for a mask token"
            hidden = GeneList(np.where(hit, self.mask, cell.genes), np.where(hit, 0.0, cell.counts))
            return hidden.first(cell.limit), 0
        if self.refill or self.op == "scale":
            left = cell.rank_again(np.where(hit, 0.0, cell.counts)).first(cell.limit)
        else:
            left = cell.listed.where(~hit[: cell.limit])
        return (left, 0) if len(left.genes) else None

    def _scale(self, cell: Ranking, hit: np.ndarray) -> tuple[GeneList, int] | None:
        changed = cell.rank_again(np.where(hit, cell.counts * self.factor, cell.counts)).first(cell.limit)
        seen = hit[: cell.limit].any() or np.isin(changed.genes, cell.genes[hit]).any()
        return (changed, 0) if seen else None


def _overexpress(cell: Ranking, genes: tuple[int, ...]) -> tuple[GeneList, int] | None:
    """With a genes that are new, k = max(0, n + a - limit) genes fall off the end, of the original too."""
    front, old = np.array(genes, dtype=np.int64), cell.listed
    others = old.where(~np.isin(old.genes, front))
    longer = np.concatenate([front, others.genes])
    if np.array_equal(longer[: cell.limit], old.genes):
        return None
    counts = np.concatenate([cell.counts_in_front(front), others.counts])
    return GeneList(longer, counts).first(cell.limit), max(0, len(longer) - cell.limit)
