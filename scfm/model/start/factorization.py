"""Embeddings of genes from the cells that they occur in together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numba
import numpy as np
from scipy.sparse import csr_matrix

#: Further directions that the iteration carries, so that the wanted ones converge.
OVERSAMPLE = 16
#: Rows of the gene x gene matrix that are turned into weights at once.
ROWS = 512


def ppmi_embedding(blocks: Iterable[csr_matrix], n_genes: int, rank: int, *, passes: int, seed: int) -> np.ndarray:
    """Truncated SVD of the positive pointwise mutual information of genes (Levy & Goldberg 2014, eq. 9 to 11).

    With df_g the cells that hold gene g, n_gh those that hold both and N all: M_gh = max(0, ln(N n_gh / (df_g df_h))),
    0 on the diagonal; M = U S V', and the embedding is U sqrt(S). Memory: 4 G^2 bytes.

    Args:
        blocks: cells x genes, 1 where the cell holds the gene.
        n_genes: G.
        rank: number of columns, at most G - 1.
        passes: iterations of the randomized SVD (Halko et al. 2011).
        seed: of its first directions.

    Returns:
        (G, rank) float32.
    """
    pairs, n_cells = np.zeros((n_genes, n_genes), dtype=np.float32), 0
    for block in blocks:
        ordered = block.sorted_indices()
        _count_pairs(ordered.indices, ordered.indptr, pairs)
        n_cells += block.shape[0]
    matrix = _weigh_pairs(pairs, n_cells)
    return _embed(lambda vectors: matrix @ vectors, n_genes, rank, passes, seed)


def correspondence_embedding(
    read: Callable[[], Iterable[csr_matrix]], n_genes: int, rank: int, *, passes: int, seed: int
) -> np.ndarray:
    """Correspondence analysis of cells x genes: principal coordinates of the genes (Greenacre 2007, ch. 8).

    With P the table over its sum, r and c its row and column sums and S = (P - r c') / sqrt(r c') = U D V', these are
    diag(c)^(-1/2) V D. Here they are left without diag(c)^(-1/2), which is one factor for each gene and falls out when
    all embeddings get one length. S is never formed: each pass reads the cells in blocks. Memory: G x rank.

    Args:
        read: the cells in blocks, cells x genes, 1 where the cell holds the gene; called once a pass and once more.
        n_genes: G; every gene occurs.
        rank: number of columns, at most G - 1.
        passes: iterations of the randomized SVD (Halko et al. 2011).
        seed: of its first directions.

    Returns:
        (G, rank) float32.
    """
    column = np.zeros(n_genes)
    for block in read():
        column += np.asarray(block.sum(0)).ravel()
    total = column.sum()
    root = np.sqrt(column / total)

    def multiply(vectors: np.ndarray) -> np.ndarray:
        """S'S times (G, k)."""
        scaled, product = (vectors / root[:, None]).astype(np.float32), np.zeros(vectors.shape)
        shared = root @ vectors
        for block in read():
            mass = np.sqrt(np.asarray(block.sum(1)).ravel() / total)
            some = mass > 0
            rows, mass = block[some], mass[some]
            left = (rows @ scaled) / (total * mass[:, None]) - mass[:, None] * shared
            product += (rows.T @ (left / mass[:, None])) / (total * root[:, None]) - np.outer(root, mass @ left)
        return product

    return _embed(multiply, n_genes, rank, passes, seed)


def component_loadings(
    read: Callable[[], Iterable[csr_matrix]], n_genes: int, rank: int, *, passes: int, seed: int
) -> np.ndarray:
    """Loadings of the first principal components of cells x genes; each has length 1. Memory: G x rank.

    Args:
        read: the cells in blocks, cells x genes; called once a pass and twice more.
        n_genes: G.
        rank: number of components, at most G - 1.
        passes: iterations of the randomized SVD (Halko et al. 2011).
        seed: of its first directions.

    Returns:
        (G, rank) float32.
    """
    mean, n_cells = np.zeros(n_genes), 0
    for block in read():
        mean, n_cells = mean + np.asarray(block.sum(0)).ravel(), n_cells + block.shape[0]
    mean /= max(n_cells, 1)

    def multiply(vectors: np.ndarray) -> np.ndarray:
        """The covariance of the genes times (G, k)."""
        product, shared = np.zeros(vectors.shape), mean @ vectors
        for block in read():
            product += block.T @ (block @ vectors)
        return product / max(n_cells, 1) - np.outer(mean, shared)

    found = _embed(multiply, n_genes, rank, passes, seed)
    return found / np.maximum(np.linalg.norm(found, axis=0), np.float32(1e-12))


def _embed(multiply: Callable[[np.ndarray], np.ndarray], size: int, rank: int, passes: int, seed: int) -> np.ndarray:
    """U sqrt|lambda| of a symmetric matrix, its largest |lambda| first, by subspace iteration."""
    start = np.random.default_rng(seed).standard_normal((size, min(size, rank + OVERSAMPLE)))
    basis = np.linalg.qr(start)[0]
    for _ in range(passes):
        basis = np.linalg.qr(multiply(basis.astype(np.float32)).astype(np.float64))[0]
    image = multiply(basis.astype(np.float32)).astype(np.float64)
    small = basis.T @ image
    values, inner = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-np.abs(values), kind="stable")[:rank]
    vectors = basis @ inner[:, order]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(rank)])
    return (vectors * signs * np.sqrt(np.abs(values[order]))).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _count_pairs(genes: np.ndarray, offsets: np.ndarray, pairs: np.ndarray) -> None:
    """Add 1 to the upper triangle of (G, G) for every pair of genes of a cell, and to the diagonal for every gene."""
    for cell in range(len(offsets) - 1):
        for i in range(offsets[cell], offsets[cell + 1]):
            row = pairs[genes[i]]
            for j in range(i, offsets[cell + 1]):
                row[genes[j]] += 1


def _weigh_pairs(pairs: np.ndarray, n_cells: int) -> np.ndarray:
    """PPMI of the counts of pairs, in their place; the lower triangle is filled."""
    cells = np.diag(pairs).astype(np.float64)
    for first in range(0, len(pairs), ROWS):
        rows = pairs[first : first + ROWS]
        with np.errstate(divide="ignore"):
            rows[:] = np.maximum(np.log(rows * (n_cells / (cells[first : first + ROWS, None] * cells))), 0)
        rows[:, : first + ROWS] = np.triu(rows[:, : first + ROWS], first + 1)
    for first in range(0, len(pairs), ROWS):
        last = min(first + ROWS, len(pairs))
        square = pairs[first:last, first:last]
        square += np.triu(square, 1).T.copy()
        pairs[last:, first:last] = pairs[first:last, last:].T
    return pairs
