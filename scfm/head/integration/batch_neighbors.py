"""Nearest neighbors inside batches and between them."""

from itertools import combinations

import numpy as np

from scfm.metrics.neighbors import nearest


def nearest_cells(embedding: np.ndarray, batches: np.ndarray, k: int, *, same_batch: bool) -> np.ndarray:
    """Places of the k nearest cells of a cell's own batch, or of all other batches together.

    Args:
        embedding: (n, D).
        batches: (n,) codes.
        k: number of neighbors.
        same_batch: whether the cells of the own batch are searched (without the cell itself) or those of all others.

    Returns:
        (n, k) int64, nearest first; -1 where there are fewer.
    """
    table = np.full((len(embedding), k), -1, dtype=np.int64)
    for code in np.unique(batches):
        members = np.flatnonzero(batches == code)
        searched = members if same_batch else np.flatnonzero(batches != code)
        if len(searched) > same_batch:  # in its own batch, a cell does not count as its neighbor
            neighbors = searched[nearest(embedding[members], embedding[searched], k, itself=same_batch)]
            table[members, : neighbors.shape[1]] = neighbors
    return table


def batch_coverage(embedding: np.ndarray, batches: np.ndarray, n_batches: int, k: int) -> np.ndarray:
    """Share of all cells that are in a batch or among the k nearest neighbors of one of its cells, (n_batches,).

    Args:
        embedding: (n, D).
        batches: (n,) codes, -1 where missing.
        n_batches: number of batches; those without cells have a share of 0.
        k: number of neighbors, among the cells of all batches.
    """
    near = nearest(embedding, embedding, k, itself=True)
    share = np.zeros(n_batches)
    for code in np.unique(batches[batches >= 0]):
        members = np.flatnonzero(batches == code)
        share[code] = len(np.union1d(members, near[members])) / len(embedding)
    return share


def center_batches(embedding: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Unit vectors from the mean of each batch, (n, D): their distances rank as cosines, without a common shift."""
    centered = embedding.copy()
    for code in np.unique(batches):
        centered[batches == code] -= centered[batches == code].mean(axis=0)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)


def mutual_neighbors(embedding: np.ndarray, batches: np.ndarray, k: int) -> np.ndarray:
    """Places of mutual nearest neighbors in other batches, (n, k).

    Two cells of different batches are mutual neighbors if each is among the k nearest of the other in its batch. A cell
    keeps the nearest k of its mutual neighbors in all batches.

    Args:
        embedding: (n, D).
        batches: (n,) codes.
        k: neighbors for each pair of batches, and neighbors that are kept; -1 stands where there are fewer.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    groups = [np.flatnonzero(batches == code) for code in np.unique(batches)]
    for one, two in combinations(groups, 2):
        there = nearest(embedding[one], embedding[two], k)
        back = nearest(embedding[two], embedding[one], k)
        forth = np.column_stack([np.repeat(one, there.shape[1]), two[there].ravel()])
        again = np.column_stack([one[back].ravel(), np.repeat(two, back.shape[1])])
        n = len(embedding)
        mutual = np.intersect1d(forth[:, 0] * n + forth[:, 1], again[:, 0] * n + again[:, 1])
        pairs.append(np.column_stack([mutual // n, mutual % n]))
    both = np.concatenate(pairs)
    return _group_pairs(embedding, np.concatenate([both, both[:, ::-1]]), k)


def _group_pairs(embedding: np.ndarray, pairs: np.ndarray, k: int) -> np.ndarray:
    """The seconds of pairs (m, 2) by their first, (n, k), nearest first."""
    table = np.full((len(embedding), k), -1, dtype=np.int64)
    distance = np.linalg.norm(embedding[pairs[:, 0]] - embedding[pairs[:, 1]], axis=1)
    pairs = pairs[np.lexsort([distance, pairs[:, 0]])]
    _, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(starts, counts)
    kept = place < k
    table[pairs[kept, 0], place[kept]] = pairs[kept, 1]
    return table
