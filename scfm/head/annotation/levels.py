"""Label columns from broad to fine: a fine call is made inside the broad one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scfm.head.annotation.label_layer import UNKNOWN, Said

#: The log-probability of a class that no training cell has.
NEVER = -30.0
#: How far, as log-probability, classes outside the broad call stay behind those inside.
BEHIND = 1e-3


class Levels(nn.Module):
    """Scores of several label columns as probabilities down a tree.

    log P(c) = log P(parent of c) + log softmax over the classes of that parent: each column's own scores tell its
    classes apart inside one broader class, so that cells labelled broadly alone teach where they can. Which class lies
    in which is learnt from the labels (:meth:`learn`).

    Args:
        labels: obs columns, broad to fine.
        names: the classes of each.

    Attributes:
        parents: for each column but the first, (C,) int64 codes in the column before; -1 for a class of no training
            cell.

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
        self.labels, self.names = tuple(labels), tuple(tuple(own) for own in names)
        for i, own in enumerate(self.names[1:], start=1):
            self.register_buffer(f"parent_{i}", torch.full((len(own),), -1, dtype=torch.int64))

    @property
    def parents(self) -> list[Tensor]:
        """See the class."""
        return [self.get_buffer(f"parent_{i}") for i in range(1, len(self.names))]

    def learn(self, codes: Mapping[str, np.ndarray]) -> None:
        """Which class lies in which, from cells that have both labels.

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
                "expected one broader class for each finer one: mend the labels, or take head.levels=false"
            )

    def forward(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Log-probabilities of each column, (B, C) float32, from its own scores."""
        found = [scores[0].log_softmax(1)]
        for own, parent in zip(scores[1:], self.parents, strict=True):
            found.append(self._inside(own, parent, found[-1]))
        return found

    @staticmethod
    def _inside(own: Tensor, parent: Tensor, broad: Tensor) -> Tensor:
        members = parent == torch.arange(broad.shape[1], device=parent.device)[:, None]
        total = own[:, None].masked_fill(~members, -torch.inf).logsumexp(2)
        place = parent.clamp(min=0)
        return torch.where(parent >= 0, broad[:, place] + own - total[:, place], NEVER)

    def settled(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The same where the likeliest class of each column lies inside that of the column before.

        Where it does not, the classes outside are moved to just behind the likeliest inside.
        """
        settled = [found[0]]
        for own, parent in zip(found[1:], self.parents, strict=True):
            inside = parent == settled[-1].argmax(1)[:, None]
            best = own.masked_fill(~inside, -torch.inf).amax(1)
            lead = own.masked_fill(inside, -torch.inf).amax(1) - best
            moved = torch.where(best.isfinite() & (lead >= 0), lead + BEHIND, 0.0)
            settled.append(torch.where(inside, own, own - moved[:, None]))
        return settled

    def named(self, found: Sequence[Said]) -> list[Said]:
        """What each column says, in keeping with the column before.

        What is unknown there is unknown here, and a broad class that has no finer ones keeps its name.
        """
        named = [found[0]]
        for i, own in enumerate(found[1:], start=1):
            broad = named[-1]
            divided = [self.names[i - 1][code] for code in np.unique(self.parents[i - 1].cpu()) if code >= 0]
            whole = ~np.isin(broad.guess.astype(str), divided)
            names = np.where(whole | (broad.names == UNKNOWN), broad.names, own.names)
            named.append(own._replace(names=names, guess=np.where(whole, broad.guess, own.guess)))
        return named
