"""Packed cells of two planted kinds, for the tables that stand beside a model."""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scfm.batch import Batch


def planted(n_cells: int, seed: int) -> Batch:
    """Cells of two kinds: genes 4 to 16, or 17 to 29; six each."""
    rng = np.random.default_rng(seed)
    rows = [[2, *rng.permutation(np.arange(4, 17) + 13 * (i % 2))[:6], 3] for i in range(n_cells)]
    return Batch(
        ids=torch.tensor(np.concatenate(rows)),
        positions=torch.arange(8).repeat(n_cells),
        boundaries=torch.arange(0, 8 * n_cells + 1, 8, dtype=torch.int32),
        longest=8,
        index=torch.arange(n_cells),
        seed=seed,
    )


def presence(batch: Batch) -> csr_matrix:
    """Which of 30 tokens each cell holds, cells x V."""
    ones = np.ones(batch.n_tokens)
    return csr_matrix((ones, batch.ids.numpy(), batch.boundaries.numpy()), shape=(batch.n_cells, 30))
