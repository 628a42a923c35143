"""Nearest neighbours inside batches and between them."""

from itertools import combinations

import numpy as np

from scfm.metrics.neighbors import nearest


def own_neighbours(embedding: np.ndarray, batches: np.ndarray, k: int) -> np.ndarray:
    """(n, k) places of the k nearest cells of the same batch, nearest first; -1 where there are fewer.

    Args:
        embedding: (n, D).
        batches: (n,) codes.
        k: how many.
    """
    table = np.full((len(embedding), k), -1, dtype=np.int64)
    for code in np.unique(batches):
        members = np.flatnonzero(batches == code)
        if len(members) > 1:
            found = members[nearest(embedding[members], embedding[members], k, itself=True)]
            table[members, : found.shape[1]] = found
    return table


def other_neighbours(embedding: np.ndarray, batches: np.ndarray, k: int) -> np.ndarray:
    """(n, k) places of the k nearest cells of all other batches together; -1 where there are fewer.

    Args:
        embedding: (n, D).
        batches: (n,) codes.
        k: how many.
    """
    table = np.full((len(embedding), k), -1, dtype=np.int64)
    for code in np.unique(batches):
        members, others = np.flatnonzero(batches == code), np.flatnonzero(batches != code)
        if len(others):
            found = others[nearest(embedding[members], embedding[others], k)]
            table[members, : found.shape[1]] = found
    return table


def coverage(embedding: np.ndarray, batches: np.ndarray, n_batches: int, k: int) -> np.ndarray:
    """(n_batches,) share of all cells that are in a batch or among the k nearest neighbours of one of its cells.

    Args:
        embedding: (n, D).
        batches: (n,) codes; those of missing batches, -1, cover nothing.
        n_batches: how many there are; absent ones cover nothing.
        k: neighbours among the cells of all batches.
    """
    near = nearest(embedding, embedding, k, itself=True)
    share = np.zeros(n_batches)
    for code in np.unique(batches[batches >= 0]):
        members = np.flatnonzero(batches == code)
        share[code] = len(np.union1d(members, near[members])) / len(embedding)
    return share


def centred(embedding: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Unit vectors from the mean of each batch (n, D): their distances rank as cosines, and a common shift is gone."""
    away = embedding.copy()
    for code in np.unique(batches):
        away[batches == code] -= away[batches == code].mean(axis=0)
    return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)


def mutual_neighbours(embedding: np.ndarray, batches: np.ndarray, k: int) -> np.ndarray:
    """(n, k) places of cells of other batches that have each other among their k nearest of that batch.

    All pairs of batches count alike: a cell keeps the nearest k of all its partners.

    Args:
        embedding: (n, D).
        batches: (n,) codes.
        k: how many of each pair, and how many are kept; -1 stands where there are fewer.
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
    return _nearest_of(embedding, np.concatenate([both, both[:, ::-1]]), k)


def _nearest_of(embedding: np.ndarray, pairs: np.ndarray, k: int) -> np.ndarray:
    """(n, k) the second of each pair (m, 2) by the first, nearest first."""
    table = np.full((len(embedding), k), -1, dtype=np.int64)
    distance = np.linalg.norm(embedding[pairs[:, 0]] - embedding[pairs[:, 1]], axis=1)
    pairs = pairs[np.lexsort([distance, pairs[:, 0]])]
    _, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(starts, counts)
    kept = place < k
    table[pairs[kept, 0], place[kept]] = pairs[kept, 1]
    return table
