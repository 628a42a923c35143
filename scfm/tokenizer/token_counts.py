"""The counts behind tokens (``keep_counts=true``)."""

import numba
import numpy as np
from scipy.sparse import csr_matrix

from scfm.types import Ragged


@numba.njit(cache=True, nogil=True)
def _copy_counts(
    tokens: np.ndarray,
    offsets: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    sums: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the summed counts of each token to out; ``sums`` (V,) is zero before and after."""
    for i in range(rows.size):
        low, high = indptr[rows[i]], indptr[rows[i] + 1]
        for k in range(low, high):
            token = columns[indices[k]]
            if token >= 0:
                sums[token] += data[k]
        for k in range(offsets[i], offsets[i + 1]):
            out[k] = sums[tokens[k]]
        for k in range(low, high):
            token = columns[indices[k]]
            if token >= 0:
                sums[token] = 0


def gather_counts(tokens: Ragged, counts: csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(T,) float32: the counts behind every token, summed over the genes that share it; 0 at special tokens.

    Args:
        tokens: of B cells.
        counts: (N, G) counts of a block.
        rows: (B,) the row of each cell in it.
        columns: (G,) token id of each gene, -1 where it has none.
    """
    out = np.empty(len(tokens.values), dtype=np.float32)
    size = int(max(columns.max(initial=0), tokens.values.max(initial=0))) + 1
    matrix = (counts.indptr, counts.indices, counts.data)
    _copy_counts(tokens.values, tokens.offsets, *matrix, rows, columns, np.zeros(size), out)
    return out
