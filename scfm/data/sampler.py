"""Micro-batches that a head composes: cells of one experimental batch, or cells together with their neighbours."""

import logging
from collections.abc import Iterator

import numpy as np

from scfm.data.order import Order, Plan, cut
from scfm.types import Sampling

log = logging.getLogger(__name__)

#: Fewer cells than this in a micro-batch leave a contrast nothing to compare with.
FEWEST = 4


class ComposedOrder(Order):
    """Like :class:`~scfm.data.order.Order`, with a say in which cells share a micro-batch.

    Every cell is read exactly once an epoch, in one micro-batch of its own group, so groups have micro-batches in
    proportion to their tokens (Concerto; CONCORD's ``proportional``). Inside a group, cores and their neighbours lie
    together, evenly spaced among the other cells. The plan stays a pure function of (seed, epoch).

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        groups: (n,) integer codes; a micro-batch holds cells of one code.
        sampling: neighbours and how many of them.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this.
        seed: seed of the shuffling.
        shuffle: a new plan every epoch; otherwise that of epoch 0.

    Raises:
        ValueError: see :class:`~scfm.data.order.Order`.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lengths: np.ndarray,
        groups: np.ndarray,
        sampling: Sampling,
        *,
        tokens: int,
        multiple: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(rows, lengths, tokens=tokens, multiple=1, seed=seed, shuffle=shuffle)
        self.sampling = sampling
        _, codes = np.unique(groups, return_inverse=True)
        self.members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
        self.shares = self._divide(tokens - int(lengths.max()), multiple)
        self.n_batches = int(self.shares.sum())

    def epoch(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        rng = np.random.default_rng([self.seed, epoch if self.shuffle else 0])
        parts: list[np.ndarray] = []
        for members, share in zip(self.members, self.shares, strict=True):
            order = self._arrange(members, rng)
            parts += np.split(order, cut(self.lengths[order], int(share))[1:-1])
        parts = [parts[i] for i in rng.permutation(len(parts))]
        edges = np.cumsum([0, *(len(part) for part in parts)])
        return Plan(self.rows[np.concatenate(parts)], edges)

    def _divide(self, room: int, multiple: int) -> np.ndarray:
        """(groups,) micro-batches of each group: as many as its tokens need, rounded up to a multiple in all."""
        totals = np.array([self.lengths[members].sum() for members in self.members])
        sizes = np.array([len(members) for members in self.members])
        shares = np.minimum(sizes, -(-totals // max(room, 1)))
        while shares.sum() % multiple:
            largest = int(np.argmax(np.where(shares < sizes, totals / shares, -1.0)))
            if shares[largest] >= sizes[largest]:
                raise ValueError(
                    f"this split has {len(self.rows)} cells, too few for micro-batches in multiples of {multiple}; "
                    "lower data.tokens_per_step or use fewer devices"
                )
            shares[largest] += 1
        if (sizes < FEWEST * shares).any():
            log.warning(
                "%d of %d micro-batches hold fewer than %d cells, which teaches little: raise data.tokens_per_batch, "
                "or leave out the groups of fewer than %d cells.",
                int(shares[sizes < FEWEST * shares].sum()),
                int(shares.sum()),
                FEWEST,
                FEWEST,
            )
        return shares

    def _arrange(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A permutation of a group's cells in which cores and their drawn neighbours lie side by side."""
        order = rng.permutation(members)
        table, companions = self.sampling.neighbours, self.sampling.companions
        n_cores = max(1, round(self.sampling.share * len(members) / companions))
        if table is None or self.sampling.share == 0:
            return order
        place = np.full(max(len(table), int(self.rows.max()) + 1), -1)
        place[self.rows[members]] = members
        free = np.zeros(len(self.rows), dtype=bool)
        free[members] = True
        key = rng.random(len(self.rows))
        for number, core in enumerate(_cores(order, free, n_cores)):
            near = table[self.rows[core]] if self.rows[core] < len(table) else table[:0].ravel()
            near = place[near[near >= 0]]
            near = rng.permutation(near[(near >= 0) & free[near]])[:companions]
            together = np.append(near, core)
            free[together] = False
            key[together] = (number + 0.5) / n_cores
        return order[np.argsort(key[order], kind="stable")]


def _cores(order: np.ndarray, free: np.ndarray, n_cores: int) -> Iterator[int]:
    """Cells that nobody has drawn yet, up to a number; ``free`` changes while they are taken."""
    taken = 0
    for core in order:
        if taken == n_cores:
            return
        if free[core]:
            taken += 1
            yield core
