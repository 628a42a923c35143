"""Expression of groups of cells: means, detection, fold changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class GroupMeans:
    """Expression by group.

    Attributes:
        mean: (C, G) mean of log1p expression.
        detected: (C, G) share of the group's cells that have the gene.
        log_fold: (C, G) log2(1 + mean of expm1) of the group minus that of all other cells.
        sizes: (C,) cells.
        overall: mean of the whole matrix, zeros included.
    """

    mean: np.ndarray
    detected: np.ndarray
    log_fold: np.ndarray
    sizes: np.ndarray
    overall: float


def group_means(values: csr_matrix, codes: np.ndarray, n_groups: int, overall: float | None = None) -> GroupMeans:
    """Means, detection and one-against-rest fold changes of each gene in each group.

    Args:
        values: (B, G) log1p of counts per 10,000, not negative.
        codes: (B,) group of each cell, 0 to C - 1.
        n_groups: C; every group has a cell.
        overall: mean of the matrix that ``values`` are some genes of; None where they are all.

    Returns:
        The statistics of every group; fold changes are 0 where there is no other group.
    """
    sizes = np.bincount(codes, minlength=n_groups)
    members = membership(codes[None], n_groups)
    plain = values.astype(np.float64).expm1()
    total = np.asarray((members @ plain).todense())
    others = len(codes) - sizes
    rest = (total.sum(axis=0) - total) / np.maximum(others, 1)[:, None]
    log_fold = np.log2(total / sizes[:, None] + 1) - np.log2(np.maximum(rest, 0) + 1)
    log_fold[others == 0] = 0
    return GroupMeans(
        mean=np.asarray((members @ values.astype(np.float64)).todense()) / sizes[:, None],
        detected=np.asarray((members @ (values > 0).astype(np.float64)).todense()) / sizes[:, None],
        log_fold=log_fold,
        sizes=sizes,
        overall=float(values.sum(dtype=np.float64) / np.prod(values.shape)) if overall is None else overall,
    )


def membership(codes: np.ndarray, n_groups: int) -> csr_matrix:
    """Which cells are in which group, for several assignments at once.

    Args:
        codes: (K, B) group of each cell in each of K assignments.
        n_groups: C.

    Returns:
        (K C, B) of zeros and ones; row ``k C + c`` are the cells of group c in assignment k.
    """
    n_sets, n_cells = codes.shape
    rows = (codes + n_groups * np.arange(n_sets)[:, None]).ravel()
    cells = np.tile(np.arange(n_cells), n_sets)
    return csr_matrix((np.ones(rows.size), (rows, cells)), shape=(n_sets * n_groups, n_cells))
