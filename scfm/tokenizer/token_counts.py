# ruff: noqa: ANN001, ANN202 (compiled functions take their types from their arguments)
"""The counts behind tokens (``keep_counts=true``)."""

import numba
import numpy as np
from scipy.sparse import csr_matrix

from scfm.types import Ragged


@numba.njit(cache=True, nogil=True)
def _beside(tokens, offsets, indptr, indices, data, rows, columns, sums, out):  # type: ignore[no-untyped-def]
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


def counts_beside(tokens: Ragged, counts: csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(T,) float32 beside every token: the cell's counts of it, those of genes that share it summed; 0 at specials.

    Args:
        tokens: of B cells.
        counts: (N, G) counts of a block.
        rows: (B,) the row of each cell in it.
        columns: (G,) token id of each gene, -1 where it has none.
    """
    out = np.empty(len(tokens.values), dtype=np.float32)
    size = int(max(columns.max(initial=0), tokens.values.max(initial=0))) + 1
    matrix = (counts.indptr, counts.indices, counts.data)
    _beside(tokens.values, tokens.offsets, *matrix, rows, columns, np.zeros(size), out)
    return out
