"""How the cells of an epoch are mixed: each by itself, by blocks and a pool, or as the store holds them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Shuffle:
    """A permutation of cells, a pure function of the generator it is given.

    Attributes:
        by: ``cells`` draws any order (a corpus that fits the page cache reads as fast in any order); ``blocks`` draws
            the order of blocks of neighbouring cells and mixes the cells of many blocks in a pool, so that a corpus on
            a slow disk is read in long pieces; ``stored`` keeps the order, for a store that was written shuffled.
        block: cells of a block.
        pool: cells that are mixed together; the page cache has to hold so many.

    Raises:
        ValueError: another way, no cell in a block, or a pool smaller than a block.
    """

    by: Literal["cells", "blocks", "stored"] = "cells"
    block: int = 64
    pool: int = 65_536

    def __post_init__(self) -> None:
        if self.by not in ("cells", "blocks", "stored"):
            raise ValueError(f"data.shuffle={self.by!r}; expected cells, blocks or stored")
        if not 0 < self.block <= self.pool:
            raise ValueError(
                f"data.shuffle_block={self.block}, data.shuffle_pool={self.pool}: a block has at least one cell, and "
                "a pool at least one block"
            )

    @property
    def name(self) -> str:
        """In words."""
        return f"blocks of {self.block} in pools of {self.pool}" if self.by == "blocks" else self.by

    def __call__(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n,) int64, the numbers 0 to n-1 in the order in which they are read."""
        if self.by == "stored":
            return np.arange(n)
        if self.by == "cells":
            return rng.permutation(n)
        blocks = rng.permutation(-(-n // self.block))
        order = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        order = order[order < n]
        for start in range(0, n, self.pool):
            rng.shuffle(order[start : start + self.pool])
        return order
