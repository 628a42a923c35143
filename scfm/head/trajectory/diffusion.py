"""Diffusion pseudotime and fates on a graph of cells, by scanpy and scipy."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, diags, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import bicgstab

log = logging.getLogger(__name__)


def neighbor_graph(embedding: np.ndarray, n_neighbors: int) -> Any:
    """The cells as an AnnData with scanpy's neighbor graph, weighted by DPT's Gaussian kernel, and a diffusion map.

    Args:
        embedding: (n, D).
        n_neighbors: neighbors of each cell in the graph.

    Raises:
        ImportError: scanpy is not installed.
        ValueError: too few cells for a graph.
    """
    try:
        import scanpy
    except ImportError as error:
        raise ImportError(
            'diffusion pseudotime needs scanpy: pip install "scfm-framework[evaluate]" (before training only; a '
            "trained head projects without it)"
        ) from error
    if len(embedding) <= n_neighbors:
        raise ValueError(
            f"{len(embedding)} training cells are too few for {n_neighbors} neighbors each; lower head.neighbors"
        )
    from anndata import AnnData

    cells = AnnData(np.ascontiguousarray(embedding, dtype=np.float32))
    scanpy.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X", method="gauss", random_state=0)
    scanpy.tl.diffmap(cells, n_comps=min(15, len(embedding) - 2), random_state=0)
    return cells


def diffusion_pseudotime(cells: Any, root: int) -> np.ndarray:
    """Diffusion pseudotime (Haghverdi et al. 2016) from a root cell, (n,); nan for cells not connected with it.

    Args:
        cells: what :func:`neighbor_graph` gives.
        root: row of the root cell.
    """
    import scanpy

    cells.uns["iroot"] = root
    scanpy.tl.dpt(cells, n_dcs=min(10, cells.obsm["X_diffmap"].shape[1]))
    time = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64).copy()
    time[~np.isfinite(time)] = np.nan
    _, component = connected_components(cells.obsp["connectivities"], directed=False)
    time[component != component[root]] = np.nan
    n_missing = int(np.isnan(time).sum())
    if n_missing:
        log.warning(
            "%d of %d cells are not connected with the root cell: their pseudotime is missing; a larger head.neighbors "
            "may connect them.",
            n_missing,
            len(time),
        )
    return time


def extreme_cell(cells: Any, candidates: np.ndarray) -> int:
    """The cell of the root type that is farthest, in three diffusion components, from the cells of other types.

    Args:
        cells: what :func:`neighbor_graph` gives.
        candidates: (n,) bool.

    Returns:
        Its row, in the component of the graph that has most of the candidates.
    """
    _, component = connected_components(cells.obsp["connectivities"], directed=False)
    largest = np.bincount(component[candidates]).argmax()
    inside = candidates & (component == largest)
    others = ~candidates & (component == largest)
    position = cells.obsm["X_diffmap"][:, 1:4]
    center = position[others if others.any() else inside].mean(axis=0)
    distance = np.where(inside, np.linalg.norm(position - center, axis=1), -1.0)
    return int(distance.argmax())


def scale_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks scaled to [0, 1], with tied values at their mean rank; nan stays."""
    from scipy.stats import rankdata

    ranks = np.full(len(values), np.nan, dtype=np.float32)
    known = np.isfinite(values)
    ranks[known] = (rankdata(values[known]) - 1) / max(known.sum() - 1, 1)
    return ranks


def absorption(
    graph: csr_matrix, time: np.ndarray, terminal: np.ndarray, n_fates: int, bias: float = 10.0
) -> np.ndarray:
    """Probabilities that a random walk on the graph, which rarely goes back in time, ends in each terminal state.

    Steps i → j have weight w_ij, times 2/√(1 + e^{b (t_i − t_j)}) where t_j < t_i (the soft scheme of VIA, Stassen et
    al. 2021, and CellRank, Lange et al. 2022); terminal cells are absorbing.

    Args:
        graph: (n, n) connectivities.
        time: (n,) pseudotime in [0, 1], nan where missing: such cells are left out.
        terminal: (n,) code of the terminal state, -1 elsewhere.
        n_fates: number of states K.
        bias: b.

    Returns:
        (n, K) float32, rows of sum 1; nan for cells from which no terminal cell is reached.
    """
    edges = csr_matrix(graph).tocoo()
    known = np.isfinite(time)
    back = np.nan_to_num(time)[edges.row] - np.nan_to_num(time)[edges.col]
    weight = edges.data * np.where(back > 0, 2 / np.sqrt(1 + np.exp(bias * back)), 1.0)
    weight *= known[edges.row] & known[edges.col]
    steps = csr_matrix((weight, (edges.row, edges.col)), shape=graph.shape)
    total = np.asarray(steps.sum(axis=1)).ravel()
    steps = diags(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)) @ steps
    end = (terminal >= 0) & known
    ends = np.zeros((len(time), n_fates))
    ends[np.flatnonzero(end), terminal[end]] = 1
    walk = steps[~end]
    system = identity(int((~end).sum())) - (1 - 1e-6) * walk[:, ~end]  # the leak keeps unreachable cells solvable
    probabilities = ends.copy()
    for fate in range(n_fates):
        probabilities[~end, fate], fault = bicgstab(system, walk[:, end] @ ends[end, fate], rtol=1e-6, maxiter=5000)
        if fault:
            log.warning("The solver did not converge for terminal state %d; its fates are approximate.", fate)
    probabilities = probabilities.clip(min=0)
    reached = probabilities.sum(axis=1)
    probabilities[reached < 0.5] = np.nan
    return (probabilities / np.where(reached < 0.5, 1, reached)[:, None]).astype(np.float32)
