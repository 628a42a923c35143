"""Micro-batches that a head composes: cells of one experimental batch, or cells together with their neighbors."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scfm.data.order import EpochPlan, Order, cut_batches
from scfm.types import Sampling

log = logging.getLogger(__name__)

#: A contrast between cells needs at least this many of them in a micro-batch.
FEWEST = 4


class ComposedOrder(Order):
    """Like :class:`~scfm.data.order.Order`, with rules for which cells share a micro-batch.

    A pass over a group reads each of its cells once, in micro-batches within the budget; inside a group, cores and
    their neighbors are adjacent, evenly spaced among the other cells. An epoch is one pass over every group
    (``proportional``), or as many micro-batches of each as :class:`~scfm.types.Sampling` says: part of a pass, or
    several, so that no micro-batch has a cell twice. Groups of fewer than four cells are read as one group (Concerto;
    CONCORD). The plan stays a pure function of (seed, epoch).

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        groups: (n,) integer codes, -1 for none; a micro-batch is of one code.
        sampling: how many micro-batches, and of what.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this.
        seed: seed of the shuffling.
        shuffle: a new plan every epoch; otherwise that of epoch 0, of every cell exactly once: for held-out cells.

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
        self.tokens = tokens
        self.sampling = sampling if shuffle else replace(sampling, micro_batches="proportional", inside=1.0)
        codes = merge_small_groups(groups)
        self.members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
        self.by_group, self.group = np.argsort(codes, kind="stable"), codes
        self.starts = np.cumsum([0, *(len(members) for members in self.members)])
        self.place = np.full(max(len(_table(sampling)), int(rows.max()) + 1), -1)
        self.place[rows] = np.arange(len(rows))
        room = int(self.sampling.inside * (tokens - int(lengths.max())))
        how = self.sampling.micro_batches
        self.pieces = self._divide(room, multiple if how == "proportional" else 1)
        self.shares = self.pieces if how == "proportional" else self._count_batches(groups, codes, multiple)
        self.n_batches = int(self.shares.sum())

    @property
    def name(self) -> str:
        """The name of :class:`~scfm.data.order.Order`, with the number of micro-batches of each group."""
        wanted = self.sampling
        return f"{super().name}, by {wanted.by}, {self.shares.tolist()} micro-batches, {wanted.inside:g} of each inside"

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch."""
        rng = np.random.default_rng([self.seed, epoch if self.shuffle else 0])
        parts = [part for group in range(len(self.members)) for part in self._group_batches(group, rng)]
        parts = [parts[i] for i in rng.permutation(len(parts))]
        edges = np.cumsum([0, *(len(part) for part in parts)])
        return EpochPlan(self.rows[np.concatenate(parts)], edges)

    def _group_batches(self, group: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The micro-batches of a group: of one pass over it, of its beginning, or of several."""
        parts: list[np.ndarray] = []
        while len(parts) < self.shares[group]:
            order = self._arrange(self.members[group], rng)
            parts += np.split(order, cut_batches(self.lengths[order], int(self.pieces[group]))[1:-1])
        parts = parts[: self.shares[group]]
        return parts if self.sampling.inside == 1 else [self._add_other_groups(part, group, rng) for part in parts]

    def _divide(self, room: int, multiple: int) -> np.ndarray:
        """(groups,) micro-batches of a pass: as many as a group's tokens need, rounded up to a multiple in all."""
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
                "%d of %d micro-batches hold fewer than %d cells, too few for a contrast: raise data.tokens_per_batch.",
                int(shares[sizes < FEWEST * shares].sum()),
                int(shares.sum()),
                FEWEST,
            )
        return shares

    def _count_batches(self, groups: np.ndarray, codes: np.ndarray, multiple: int) -> np.ndarray:
        """(groups,) micro-batches of an epoch, if they are not proportional to the cells."""
        if self.sampling.micro_batches == "equal":
            wanted = np.full(len(self.pieces), np.median(self.pieces))
        else:
            assert self.sampling.coverage is not None, "micro-batches by coverage take the coverage of each category"
            _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
            each = np.append(self.sampling.coverage, 0.0)[groups] / sizes[place]  # cells of no category cover nothing
            covered = np.bincount(codes, each)
            wanted = self.pieces.sum() * covered / covered.sum()
        shares = np.maximum(1, np.rint(wanted)).astype(np.int64)
        while shares.sum() % multiple:
            shares[np.argmax(wanted - shares)] += 1
        return shares

    def _arrange(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A permutation of a group's cells in which each core is adjacent to its drawn neighbors."""
        order = rng.permutation(members)
        companions = self.sampling.companions
        n_cores = max(1, round(self.sampling.share * len(members) / companions))
        if self.sampling.neighbors is None or self.sampling.share == 0:
            return order
        free = np.zeros(len(self.rows), dtype=bool)
        free[members] = True
        key = rng.random(len(self.rows))
        for number, core in enumerate(_cores(order, free, n_cores)):
            near = self._find_neighbors(np.array([core]))
            near = rng.permutation(near[free[near]])[:companions]
            together = np.append(near, core)
            free[together] = False
            key[together] = (number + 0.5) / n_cores
        return order[np.argsort(key[order], kind="stable")]

    def _find_neighbors(self, cells: np.ndarray) -> np.ndarray:
        """Neighbors of some cells, as far as they are in this split."""
        table = _table(self.sampling)
        rows = self.rows[cells]
        near = table[rows[rows < len(table)]].ravel()
        near = self.place[near[near >= 0]]
        return near[near >= 0]

    def _add_other_groups(self, part: np.ndarray, group: int, rng: np.random.Generator) -> np.ndarray:
        """A micro-batch with cells of other groups, ``share`` of them neighbors, as far as the budget allows."""
        members = self.members[group]
        wanted = min(round(len(part) * (1 / self.sampling.inside - 1)), len(self.rows) - len(members))
        near = np.unique(self._find_neighbors(part))
        near = near[self.group[near] != group]
        near = rng.permutation(near)[: round(self.sampling.share * wanted)]
        drawn = rng.choice(len(self.rows) - len(members), wanted, replace=False)
        start = self.starts[group]
        others = self.by_group[np.where(drawn < start, drawn, drawn + len(members))]
        others = np.append(near, others[~np.isin(others, near)])[:wanted]
        room = self.tokens - self.lengths[part].sum()
        return np.append(part, others[np.cumsum(self.lengths[others]) <= room])


def merge_small_groups(groups: np.ndarray) -> np.ndarray:
    """(n,) codes from 0 of groups (n,): groups of fewer than four cells become one, with the next larger if needed."""
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    by_size = np.argsort(sizes, kind="stable")
    n_small = int((sizes < FEWEST).sum())
    if n_small and sizes[by_size[:n_small]].sum() < FEWEST:
        n_small += 1
    codes[np.isin(codes, by_size[:n_small])] = by_size[0]
    return np.unique(codes, return_inverse=True)[1]


def _cores(order: np.ndarray, free: np.ndarray, n_cores: int) -> Iterator[int]:
    """Up to ``n_cores`` cells that are still free; the caller updates ``free`` between them."""
    taken = 0
    for core in order:
        if taken == n_cores:
            return
        if free[core]:
            taken += 1
            yield core


def _table(sampling: Sampling) -> np.ndarray:
    """(rows, k) neighbors of each row; no rows if there are none."""
    return np.empty((0, 1), dtype=np.int64) if sampling.neighbors is None else sampling.neighbors
