"""How often shuffled group labels score a ligand-receptor pair as high."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix

from scfm.metrics.communication.group_means import membership
from scfm.metrics.communication.interactions import Interactions

#: Numbers that a chunk of permutations may hold at once.
ROOM = 4_000_000


def permutation_p(
    values: csr_matrix,
    codes: np.ndarray,
    found: Interactions,
    *,
    blocks: np.ndarray | None = None,
    n_permutations: int = 1000,
    seed: int = 1337,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """P value of the mean of ligand and receptor under shuffled group labels.

    (1 + #{permuted >= observed}) / (1 + K), so that no p value is 0 (Phipson & Smyth 2010; CellPhoneDB leaves the ones
    out). Labels are shuffled inside each block: a donor's cells keep to that donor, and a difference between donors is
    no interaction. The means of all groups in many permutations are one product of sparse matrices.

    Args:
        values: (B, G) log1p expression.
        codes: (B,) group of each cell; every group has a cell.
        found: the interactions that are tested.
        blocks: (B,) donor codes; None shuffles all cells.
        n_permutations: K.
        seed: of the permutations.
        advance: told of each chunk's number of permutations, for a progress bar.

    Returns:
        (n,) p values, one-sided.
    """
    genes, places = np.unique(np.concatenate([found.ligand, found.receptor]), return_inverse=True)
    ligand, receptor = places[: len(found)], places[len(found) :]
    part = values[:, genes].astype(np.float64)
    n_groups = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=n_groups)

    def scores(assignments: np.ndarray) -> np.ndarray:
        """(K, n)."""
        total = np.asarray((membership(assignments, n_groups) @ part).todense())
        mean = total.reshape(len(assignments), n_groups, len(genes)) / sizes[:, None]
        return mean[:, found.sender, ligand] + mean[:, found.receiver, receptor]

    observed = scores(codes[None])[0] * (1 - 1e-12)  # sums in another order may differ in the last digit
    rng = np.random.default_rng(seed)
    chunk = max(1, ROOM // max(n_groups * len(genes), len(found), len(codes), 1))
    reached = np.zeros(len(found), dtype=np.int64)
    for start in range(0, n_permutations, chunk):
        size = min(chunk, n_permutations - start)
        reached += (scores(shuffle_codes(codes, blocks, size, rng)) >= observed).sum(axis=0)
        if advance is not None:
            advance(size)
    return (1 + reached) / (1 + n_permutations)


def shuffle_codes(codes: np.ndarray, blocks: np.ndarray | None, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, B) random permutations of ``codes``, inside each block where there are blocks."""
    keys = rng.random((n, len(codes)))
    if blocks is None:
        return codes[keys.argsort(axis=1)]
    inside = np.argsort(blocks, kind="stable")
    shuffled = np.empty((n, len(codes)), dtype=codes.dtype)
    shuffled[:, inside] = codes[(keys + blocks).argsort(axis=1)]
    return shuffled
