"""Label columns from broad to fine: a fine call is made inside the broad one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scfm.head.annotation.label_layer import UNKNOWN, Prediction

#: The log-probability of a class that no training cell has.
NEVER = -30.0
#: Log-probability by which classes outside the broad call are set below the best class inside.
MARGIN = 1e-3


class Levels(nn.Module):
    """Scores of several label columns as probabilities down a tree.

    log P(c) = log P(parent of c) + log softmax over the classes of that parent: the scores of a column separate its
    classes inside one broader class, and cells with a broad label alone train the broad column. Which class lies in
    which is learned from the labels (:meth:`learn`).

    Args:
        labels: obs columns, broad to fine.
        names: the classes of each.

    Attributes:
        parents: for each column but the first, (C,) int64 codes in the column before; -1 for a class without training
            cells.

    Raises:
        ValueError: a single column.
    """

    def __init__(self, labels: Sequence[str], names: Sequence[Sequence[str]]) -> None:
        super().__init__()
        if len(labels) < 2:
            raise ValueError(
                f"head.levels=true with head.label={labels[0]!r}; expected several columns, broad to fine, such as "
                "head.label='[major,minor]'"
            )
        self.labels, self.names = tuple(labels), tuple(tuple(classes) for classes in names)
        for i, classes in enumerate(self.names[1:], start=1):
            self.register_buffer(f"parent_{i}", torch.full((len(classes),), -1, dtype=torch.int64))

    @property
    def parents(self) -> list[Tensor]:
        """Codes of the broader classes, see the class."""
        return [self.get_buffer(f"parent_{i}") for i in range(1, len(self.names))]

    def learn(self, codes: Mapping[str, np.ndarray]) -> None:
        """Learn which class lies in which, from cells that have both labels.

        Args:
            codes: (n,) class codes of each column, -1 where missing.

        Raises:
            ValueError: a class that lies in two broader ones, or in none.
        """
        for i, parent in enumerate(self.parents, start=1):
            broad, fine = codes[self.labels[i - 1]], codes[self.labels[i]]
            both = (broad >= 0) & (fine >= 0)
            table = np.zeros((len(self.names[i]), len(self.names[i - 1])), dtype=np.int64)
            np.add.at(table, (fine[both], broad[both]), 1)
            self._require_tree(i, table, np.unique(fine[fine >= 0]))
            seen = table.any(axis=1)
            parent[torch.from_numpy(seen)] = torch.from_numpy(table.argmax(axis=1)[seen])

    def _require_tree(self, i: int, table: np.ndarray, present: np.ndarray) -> None:
        for code in present:
            inside = np.flatnonzero(table[code])
            if len(inside) == 1:
                continue
            broad, fine = self.labels[i - 1], self.labels[i]
            where = ", ".join(f"{self.names[i - 1][one]!r} ({table[code, one]} cells)" for one in inside)
            raise ValueError(
                f"head.levels=true: {fine}={self.names[i][code]!r} lies in {where or 'no class'} of {broad!r}; "
                "expected one broader class for each finer one: fix the labels, or set head.levels=false"
            )

    def forward(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Log-probabilities of each column, (B, C) float32, from its own scores."""
        log_p = [scores[0].log_softmax(1)]
        for fine, parent in zip(scores[1:], self.parents, strict=True):
            log_p.append(self._condition(fine, parent, log_p[-1]))
        return log_p

    @staticmethod
    def _condition(fine: Tensor, parent: Tensor, broad: Tensor) -> Tensor:
        """Log-probabilities of finer classes from their scores and the log-probabilities of the broad ones."""
        members = parent == torch.arange(broad.shape[1], device=parent.device)[:, None]
        total = fine[:, None].masked_fill(~members, -torch.inf).logsumexp(2)
        place = parent.clamp(min=0)
        return torch.where(parent >= 0, broad[:, place] + fine - total[:, place], NEVER)

    def enforce_levels(self, log_p: Sequence[Tensor]) -> list[Tensor]:
        """Log-probabilities whose likeliest class in each column lies inside that of the column before.

        Where it does not, the classes outside are lowered to just below the likeliest inside.
        """
        consistent = [log_p[0]]
        for fine, parent in zip(log_p[1:], self.parents, strict=True):
            inside = parent == consistent[-1].argmax(1)[:, None]
            best = fine.masked_fill(~inside, -torch.inf).amax(1)
            lead = fine.masked_fill(inside, -torch.inf).amax(1) - best
            lowered = torch.where(best.isfinite() & (lead >= 0), lead + MARGIN, 0.0)
            consistent.append(torch.where(inside, fine, fine - lowered[:, None]))
        return consistent

    def align_names(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Names of each column that agree with those of the column before.

        A cell that is unknown there is unknown here, and a broad class without finer ones keeps its name.
        """
        aligned = [predictions[0]]
        for i, fine in enumerate(predictions[1:], start=1):
            broad = aligned[-1]
            divided = [self.names[i - 1][code] for code in np.unique(self.parents[i - 1].cpu()) if code >= 0]
            whole = ~np.isin(broad.guess.astype(str), divided)
            names = np.where(whole | (broad.names == UNKNOWN), broad.names, fine.names)
            aligned.append(fine._replace(names=names, guess=np.where(whole, broad.guess, fine.guess)))
        return aligned
