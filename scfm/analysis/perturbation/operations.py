"""What a perturbation does to the ranked genes of one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Operation: TypeAlias = Literal["delete", "overexpress", "scale", "mask"]


@dataclass(frozen=True)
class Ranking:
    """All genes of a cell that have a token, without special tokens.

    Attributes:
        genes: (n,) int64 token ids by rank; the model reads the first ``limit``.
        counts: (n,) float64, their counts.
        limit: genes that the model reads of a cell.
        total: counts of the cell over all its genes.
        medians: (n,) of a tokenizer that ranks by ``((x / total) * 10000) / median``; None where it ranks by counts.
    """

    genes: np.ndarray
    counts: np.ndarray
    limit: int
    total: float = 1.0
    medians: np.ndarray | None = None

    def values(self, counts: np.ndarray) -> np.ndarray:
        """(n,) what the genes are ranked by, were these their counts; the total stays."""
        return counts if self.medians is None else counts / self.total * 1e4 / self.medians

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

    def apply(self, cell: Ranking, genes: tuple[int, ...]) -> tuple[np.ndarray, int] | None:
        """The genes that the model reads after the change.

        Args:
            cell: its ranking.
            genes: that are changed together.

        Returns:
            The genes, and how many the original loses at its end so that only the perturbation differs (those that an
            overexpressed gene pushes out); None where nothing of the cell is changed: the model would say the same.
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
            return np.where(hit, self.mask, cell.genes)[: cell.limit], 0
        if self.refill or self.op == "scale":
            return cell.genes[~hit][: cell.limit], 0
        return cell.read[~hit[: cell.limit]], 0

    def _scale(self, cell: Ranking, hit: np.ndarray) -> tuple[np.ndarray, int] | None:
        values = cell.values(np.where(hit, cell.counts * self.factor, cell.counts))
        order = np.lexsort((cell.genes, -values))  # equal values by ascending id, as tokenizers have it
        changed = cell.genes[order][: cell.limit]
        seen = hit[: cell.limit].any() or not np.array_equal(changed, cell.read)
        return (changed, 0) if seen else None


def _overexpress(cell: Ranking, genes: tuple[int, ...]) -> tuple[np.ndarray, int] | None:
    """With a genes that are new, k = max(0, n + a - limit) genes fall off the end, of the original too."""
    longer = np.concatenate([np.array(genes, dtype=np.int64), cell.read[~np.isin(cell.read, genes)]])
    changed = longer[: cell.limit]
    if np.array_equal(changed, cell.read):
        return None
    return changed, len(longer) - len(changed)
