"""How the cells of an epoch are shuffled: each by itself, by blocks within a pool, or not at all."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Shuffle:
    """A permutation of cells, a pure function of the generator it is given.

    Attributes:
        kind: ``cells`` draws any order (a corpus that fits the page cache reads as fast in any order); ``blocks`` draws
            the order of blocks of adjacent cells and shuffles the cells of many blocks in a pool, so that a corpus on a
            slow disk is read in long pieces; ``stored`` keeps the order, for a store that was written shuffled.
        block: cells of a block.
        pool: cells that are shuffled together; the page cache has to hold them.

    Raises:
        ValueError: an unknown kind, no cell in a block, or a pool smaller than a block.
    """

    kind: Literal["cells", "blocks", "stored"] = "cells"
    block: int = 64
    pool: int = 65_536

    def __post_init__(self) -> None:
        if self.kind not in ("cells", "blocks", "stored"):
            raise ValueError(f"data.shuffle={self.kind!r}; expected cells, blocks or stored")
        if not 0 < self.block <= self.pool:
            raise ValueError(
                f"data.shuffle_block={self.block}, data.shuffle_pool={self.pool}: a block has at least one cell, and "
                "a pool at least one block"
            )

    @property
    def name(self) -> str:
        """The kind in words; a checkpoint holds it, see :attr:`scfm.data.order.Order.name`."""
        return f"blocks of {self.block} in pools of {self.pool}" if self.kind == "blocks" else self.kind

    def __call__(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n,) int64, the numbers 0 to n-1 in the order in which they are read."""
        if self.kind == "stored":
            return np.arange(n)
        if self.kind == "cells":
            return rng.permutation(n)
        blocks = rng.permutation(-(-n // self.block))
        order = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        order = order[order < n]
        for start in range(0, n, self.pool):
            rng.shuffle(order[start : start + self.pool])
        return order
