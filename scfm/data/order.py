"""Which cells make which micro-batch: a pure function of (seed, epoch, step).

The order knows nothing of ranks or workers. Every rank computes the same plan and takes the micro-batches
``rank, rank + world, ...`` of it, so the cells of an optimiser step do not depend on how many GPUs share the work, and
a run resumes from one integer: the micro-batches already taken.
"""

from dataclasses import dataclass

import numpy as np

from scfm.data.shuffle import Shuffle

TRAIN, HELD_OUT = 0, 1


def batch_seed(seed: int, stream: int, epoch: int, step: int) -> int:
    """The seed of everything random done to one micro-batch, a non-negative 63-bit integer."""
    return int(np.random.SeedSequence([seed, stream, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Plan:
    """One epoch: the rows in the order they are read, cut into micro-batches.

    Attributes:
        rows: (n,) int64, store rows.
        edges: (n_batches + 1,) int64; micro-batch ``b`` is ``rows[edges[b]:edges[b + 1]]``.
    """

    rows: np.ndarray
    edges: np.ndarray

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, step: int) -> np.ndarray:
        return self.rows[self.edges[step] : self.edges[step + 1]]


class Order:
    """Cuts the cells of a split into micro-batches under a token budget, the same number in every epoch.

    An epoch's tokens are divided evenly: cell ``i`` goes to micro-batch ``floor(start_i * n / T)``, with ``start_i``
    the tokens before it, so that micro-batches are of nearly equal size (ranks wait for the largest), none exceeds
    the budget and none is empty.

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this (those of one optimiser step, over all ranks).
        seed: seed of the shuffling.
        shuffle: a new permutation every epoch; otherwise the rows' own order.
        how: what kind of permutation; None draws every cell by itself.

    Raises:
        ValueError: no cells, a cell longer than the budget, or fewer cells than ``multiple``.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lengths: np.ndarray,
        *,
        tokens: int,
        multiple: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        how: Shuffle | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError("this split has no cells; give it a larger share (data.val, data.test) or more cells")
        longest = int(lengths.max())
        if longest > tokens:
            raise ValueError(
                f"data.tokens_per_batch={tokens} is less than the longest cell ({longest} tokens); "
                f"raise it to at least {longest} or cut the cells with data.max_length"
            )
        self.rows, self.lengths = rows, lengths
        self.seed, self.shuffle, self.how = seed, shuffle, how or Shuffle()
        wanted = min(len(rows), -(-int(lengths.sum()) // max(tokens - longest, 1)))
        self.n_batches = -(-wanted // multiple) * multiple
        if self.n_batches > len(rows):
            raise ValueError(
                f"this split has {len(rows)} cells, too few for the {multiple} micro-batches of one optimiser step; "
                "lower data.tokens_per_step, use fewer devices, or raise data.tokens_per_batch"
            )

    def __len__(self) -> int:
        return self.n_batches

    @property
    def name(self) -> str:
        """What an epoch depends on besides the cells: a run goes on only in an order of the same name."""
        return f"seed {self.seed}, {self.how.name}"

    def epoch(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        if self.shuffle:
            shuffled = self.how(len(self.rows), np.random.default_rng([self.seed, epoch]))
            rows, lengths = self.rows[shuffled], self.lengths[shuffled]
        else:
            rows, lengths = self.rows, self.lengths
        return Plan(rows, cut(lengths, self.n_batches))


def cut(lengths: np.ndarray, n_batches: int) -> np.ndarray:
    """(n_batches + 1,) edges of an even division by tokens in which every micro-batch has a cell."""
    starts = np.cumsum(lengths) - lengths
    total = int(starts[-1] + lengths[-1])
    steps = np.arange(n_batches + 1)
    edges = np.searchsorted(starts, -(-steps * total // n_batches))
    edges[0], edges[-1] = 0, len(lengths)
    edges = np.maximum.accumulate(edges - steps) + steps
    return np.minimum(edges, len(lengths) - n_batches + steps)
