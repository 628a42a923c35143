"""Rows in which every column occurs once: repeated entries are added up."""

import numba
import numpy as np
from scipy.sparse import csr_matrix


@numba.njit(cache=True, nogil=True)
def _has_repeats(indptr: np.ndarray, indices: np.ndarray, seen: np.ndarray) -> bool:
    """Whether a column occurs twice in a row; ``seen`` is only written to where a row is not in ascending order."""
    for row in range(indptr.size - 1):
        low, high = indptr[row], indptr[row + 1]
        ascending = True
        for k in range(low + 1, high):
            ascending &= indices[k] > indices[k - 1]
        if ascending:
            continue
        for k in range(low, high):
            if seen[indices[k]] == row:
                return True
            seen[indices[k]] = row
    return False


def add_up_repeats(block: csr_matrix) -> csr_matrix:
    """The block itself, or one whose repeated entries are added up, in numbers wide enough for their sums.

    Args:
        block: (B, G), column numbers within G.
    """
    if not _has_repeats(block.indptr, block.indices, np.full(block.shape[1], -1, dtype=np.int64)):
        return block
    wide = block.astype(np.float64 if block.dtype.kind == "f" else np.int64)
    wide.sum_duplicates()
    return wide
