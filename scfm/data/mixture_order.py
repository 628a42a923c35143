"""Micro-batches drawn from several stores by weight: a pure function of (seed, epoch, step)."""

from collections.abc import Sequence

import numpy as np

from scfm.data.order import EpochPlan, Order, cut_batches
from scfm.data.shuffle import Shuffle


class MixtureOrder(Order):
    """Like :class:`~scfm.data.order.Order`, each source with its share of the tokens.

    An epoch has as many tokens as all cells together. A source is an endless sequence of passes over its cells, each
    pass in a new random order and all of equal length in tokens. Epoch ``e`` is a stretch of that sequence and is
    computed without the epochs before it. Every cell of a source is read before any is read again, also across epochs.
    The stretches of the sources are merged in proportion, so that the shares hold in every micro-batch, to about one
    cell of each source.

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        sources: (n,) integer codes, the source of each of them.
        weights: of each source, in any unit.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this.
        seed: seed of the shuffling.
        permutation: how a pass is shuffled.

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
        permutation: Shuffle | None = None,
    ) -> None:
        super().__init__(rows, lengths, tokens=tokens, multiple=1, seed=seed, permutation=permutation)
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
        """The name of :class:`~scfm.data.order.Order`, with the tokens of each source in an epoch."""
        return f"{super().name}, tokens by store {self.shares}"

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch."""
        stretches = [self._stretch(source, epoch) for source in range(len(self.members))]
        cells, places = (np.concatenate(arrays) for arrays in zip(*stretches, strict=True))
        cells = cells[np.argsort(places, kind="stable")]
        return EpochPlan(self.rows[cells], cut_batches(self.lengths[cells], self.n_batches))

    def _stretch(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The cells of a source that begin in this epoch's stretch of it, and their positions in it, from 0 to 1."""
        members, total, share = self.members[source], self.totals[source], self.shares[source]
        low, high = epoch * share, (epoch + 1) * share
        cells, places = [], []
        for turn in range(low // total, -(-high // total)):
            order = members[self.permutation(len(members), np.random.default_rng([self.seed, source, turn]))]
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
