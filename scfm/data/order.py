"""Which cells make which micro-batch: a pure function of (seed, epoch, step).

The order does not depend on ranks or workers. Every rank computes the same plan and takes the micro-batches
``rank, rank + world, ...`` of it, so the cells of an optimizer step do not depend on the number of GPUs, and a run
resumes from one integer: the number of micro-batches already taken.
"""

from dataclasses import dataclass

import numpy as np

from scfm.data.shuffle import Shuffle

TRAIN, HELD_OUT = 0, 1


def batch_seed(seed: int, stream: int, epoch: int, step: int) -> int:
    """The seed of all random choices for one micro-batch, a non-negative 63-bit integer."""
    return int(np.random.SeedSequence([seed, stream, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: the rows in reading order, divided into micro-batches.

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
    """Divides the cells of a split into micro-batches within a token budget, the same number in every epoch.

    An epoch's tokens are divided evenly: cell ``i`` goes to micro-batch ``floor(start_i * n / T)``, with ``start_i``
    the tokens before it, so that micro-batches are of nearly equal size (ranks wait for the largest), none exceeds
    the budget and none is empty.

    Args:
        rows: (n,) int64, the store rows of the split.
        lengths: (n,) int64, tokens of each of them.
        tokens: the budget of a micro-batch, in tokens.
        multiple: the number of micro-batches is a multiple of this (those of one optimizer step, over all ranks).
        seed: seed of the shuffling.
        shuffle: a new permutation every epoch; otherwise the rows' own order.
        permutation: how cells are shuffled; None draws every cell by itself.

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
        permutation: Shuffle | None = None,
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
        self.seed, self.shuffle, self.permutation = seed, shuffle, permutation or Shuffle()
        wanted = min(len(rows), -(-int(lengths.sum()) // max(tokens - longest, 1)))
        self.n_batches = -(-wanted // multiple) * multiple
        if self.n_batches > len(rows):
            raise ValueError(
                f"this split has {len(rows)} cells, too few for the {multiple} micro-batches of one optimizer step; "
                "lower data.tokens_per_step, use fewer devices, or raise data.tokens_per_batch"
            )

    def __len__(self) -> int:
        return self.n_batches

    @property
    def name(self) -> str:
        """Everything an epoch depends on except the cells: a run resumes only with an order of the same name."""
        return f"seed {self.seed}, {self.permutation.name}"

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch."""
        if self.shuffle:
            shuffled = self.permutation(len(self.rows), np.random.default_rng([self.seed, epoch]))
            rows, lengths = self.rows[shuffled], self.lengths[shuffled]
        else:
            rows, lengths = self.rows, self.lengths
        return EpochPlan(rows, cut_batches(lengths, self.n_batches))


def cut_batches(lengths: np.ndarray, n_batches: int) -> np.ndarray:
    """(n_batches + 1,) edges that divide the tokens evenly; every micro-batch has a cell."""
    starts = np.cumsum(lengths) - lengths
    total = int(starts[-1] + lengths[-1])
    steps = np.arange(n_batches + 1)
    edges = np.searchsorted(starts, -(-steps * total // n_batches))
    edges[0], edges[-1] = 0, len(lengths)
    edges = np.maximum.accumulate(edges - steps) + steps
    return np.minimum(edges, len(lengths) - n_batches + steps)
