"""Totals, numbers of genes and hashes of cells, in one compiled pass over a block of counts."""

from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Tally:
    """Sums over a block of B cells and G genes.

    Attributes:
        totals: (B,) float64, counts of all genes.
        n_genes: (B,) int64, genes with counts.
        hashes: (B,) uint64, see :mod:`scfm.store.cell_hash`.
    """

    totals: np.ndarray
    n_genes: np.ndarray
    hashes: np.ndarray


@numba.njit(cache=True, nogil=True)
def _mix(x: np.uint64) -> np.uint64:
    """The finalizer of splitmix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _tally(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    weights: np.ndarray,
    sums: np.ndarray,
    scale: float,
    totals: np.ndarray,
    n_genes: np.ndarray,
    hashes: np.ndarray,
) -> None:
    """Fill totals, n_genes and hashes, and add to sums.

    ``weights`` and ``sums`` are views of the same memory: gene g's are at 2g and 2g + 1, so in one cache line.
    """
    for row in range(indptr.size - 1):
        total, genes, mixed = 0.0, np.int64(0), np.uint64(0)
        for k in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            at, x = np.uint64(indices[k]) << np.uint64(1), np.float64(data[k])
            total += x
            sums[at | np.uint64(1)] += x
            mixed += weights[at] * np.uint64(np.int64(x * scale))
            genes += x > 0
        totals[row], n_genes[row], hashes[row] = total, genes, _mix(mixed)


@numba.njit(cache=True, nogil=True)
def _count_different(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    seen: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Add to numbers each row's tokens with counts; ``seen`` holds the last row that had a token."""
    for i in range(rows.size):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            token = columns[indices[k]]
            if token >= 0 and data[k] > 0:
                numbers[i] += seen[token] != i
                seen[token] = i


def tally(counts: csr_matrix, weights: np.ndarray, sums: np.ndarray | None = None, *, whole: bool = True) -> Tally:
    """Sum up a block.

    Args:
        counts: (B, G) non-negative counts.
        weights: (G,) uint64, see :func:`scfm.store.cell_hash.gene_weights`.
        sums: (G,) float64, the counts of each gene are added to it entry by entry, so that even with fractions it
            does not depend on how the cells are cut into blocks.
        whole: whether the file holds counts; fractions (log-normalized values) enter the hash in steps of 2**-16.
    """
    n, genes = counts.shape
    result = Tally(np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.uint64))
    table = np.zeros(2 * genes, np.uint64)
    table[::2], added = weights, table.view(np.float64)
    if sums is not None:
        added[1::2] = sums
    matrix, scale = (counts.indptr, counts.indices, counts.data), 1.0 if whole else 65536.0
    _tally(*matrix, table, added, scale, result.totals, result.n_genes, result.hashes)
    if sums is not None:
        sums[:] = added[1::2]
    return result


def count_different_tokens(counts: csr_matrix, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) int64: different tokens with counts, in some cells of a block.

    Args:
        counts: (B, G) counts.
        columns: (G,) token id of each gene, -1 where it has none; several genes can share one.
        rows: the cells.
    """
    numbers = np.zeros(len(rows), dtype=np.int64)
    seen = np.full(int(columns.max(initial=-1)) + 1, -1, dtype=np.int64)
    _count_different(counts.indptr, counts.indices, counts.data, columns, rows, seen, numbers)
    return numbers
