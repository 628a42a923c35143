"""Micro-batches drawn from several stores by weight: a pure function of (seed, epoch, step)."""

from collections.abc import Sequence

import numpy as np

from scfm.data.order import Order, Plan, cut
from scfm.data.shuffle import Shuffle


class BlendedOrder(Order):
    """Like :class:`~scfm.data.order.Order`, each source with its share of the tokens.

    An epoch has as many tokens as all cells together. A source is an endless row of passes over its cells, each pass
    shuffled anew and all of equal length in tokens, so epoch ``e`` is a stretch of it that needs no walk from the
    beginning: every cell of a source is read before any is read again, also from one epoch to the next. The stretches
    are merged in proportion, so that the shares hold in every micro-batch, to about a cell of each source.

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        sources: (n,) integer codes, the source of each of them.
        weights: of each source, in any unit.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this.
        seed: seed of the shuffling.
        how: how a pass is shuffled.

    Raises:
        ValueError: a source without cells, micro-batches for too few cells, or as :class:`~scfm.data.order.Order`.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lengths: np.ndarray,
        sources: np.ndarray,
        weights: Sequence[float],
        *,
        tokens: int,
        multiple: int = 1,
        seed: int = 0,
        how: Shuffle | None = None,
    ) -> None:
        super().__init__(rows, lengths, tokens=tokens, multiple=1, seed=seed, how=how)
        self.members = [np.flatnonzero(sources == source) for source in range(len(weights))]
        empty = [str(source) for source, members in enumerate(self.members) if not len(members)]
        if empty:
            raise ValueError(
                f"store {', '.join(empty)} of the mix (the first is 0) has no training cell in this split: choose "
                "another data.split_seed, or data.group=null to split cell by cell"
            )
        self.totals = [int(lengths[members].sum()) for members in self.members]
        self.shares = [max(1, round(sum(self.totals) * weight / sum(weights))) for weight in weights]
        longest = int(lengths.max())
        room, most = max(tokens - longest, 1), sum(self.shares) + longest * len(weights)
        self.n_batches = -(-most // (room * multiple)) * multiple
        fewest = sum(_fewest(lengths[m], share) for m, share in zip(self.members, self.shares, strict=True))
        if self.n_batches > fewest:
            raise ValueError(
                f"an epoch of the mix may have only {fewest} cells, too few for its {self.n_batches} micro-batches: "
                "raise data.tokens_per_batch, lower data.tokens_per_step, or use fewer devices"
            )

    @property
    def name(self) -> str:
        """With the tokens of each source in an epoch."""
        return f"{super().name}, tokens by store {self.shares}"

    def epoch(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        stretches = [self._stretch(source, epoch) for source in range(len(self.members))]
        cells, places = (np.concatenate(arrays) for arrays in zip(*stretches, strict=True))
        cells = cells[np.argsort(places, kind="stable")]
        return Plan(self.rows[cells], cut(self.lengths[cells], self.n_batches))

    def _stretch(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The cells of a source whose tokens begin in this epoch's stretch of it, and where in it, from 0 to 1."""
        members, total, share = self.members[source], self.totals[source], self.shares[source]
        low, high = epoch * share, (epoch + 1) * share
        cells, places = [], []
        for turn in range(low // total, -(-high // total)):
            order = members[self.how(len(members), np.random.default_rng([self.seed, source, turn]))]
            starts = np.cumsum(self.lengths[order]) - self.lengths[order] + (turn * total - low)
            inside = slice(*np.searchsorted(starts, [0, share]))
            cells.append(order[inside])
            places.append(starts[inside] / share)
        return np.concatenate(cells), np.concatenate(places)


def _fewest(lengths: np.ndarray, share: int) -> int:
    """The fewest cells that a stretch of ``share`` tokens can have, wherever it begins.

    It holds whole passes, the end of one before and the beginning of one after, where a cell may come once each.
    """
    tokens = max(0, share - int(lengths.max()))  # the first cell may begin before the stretch
    whole, rest = divmod(tokens, int(lengths.sum()))
    if whole:
        whole, rest = whole - 1, rest + int(lengths.sum())
    return whole * len(lengths) + 2 * int(np.searchsorted(np.cumsum(-np.sort(-lengths)), rest / 2))
