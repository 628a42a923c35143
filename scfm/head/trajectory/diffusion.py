"""Diffusion pseudotime and fates on a graph of cells, by scanpy and scipy."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, diags, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import bicgstab

log = logging.getLogger(__name__)


def neighbour_graph(embedding: np.ndarray, n_neighbours: int) -> Any:
    """The cells as an AnnData with scanpy's neighbour graph, weighed by DPT's own Gaussian kernel, and diffusion map.

    Args:
        embedding: (n, D).
        n_neighbours: of the graph.

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
    if len(embedding) <= n_neighbours:
        raise ValueError(
            f"{len(embedding)} training cells are too few for {n_neighbours} neighbours each; lower head.neighbours"
        )
    from anndata import AnnData

    cells = AnnData(np.ascontiguousarray(embedding, dtype=np.float32))
    scanpy.pp.neighbors(cells, n_neighbors=n_neighbours, use_rep="X", method="gauss", random_state=0)
    scanpy.tl.diffmap(cells, n_comps=min(15, len(embedding) - 2), random_state=0)
    return cells


def diffusion_pseudotime(cells: Any, root: int) -> np.ndarray:
    """(n,) diffusion pseudotime (Haghverdi et al. 2016) from a root cell; nan for cells that it does not reach.

    Args:
        cells: of :func:`neighbour_graph`.
        root: row of the root cell.
    """
    import scanpy

    cells.uns["iroot"] = root
    scanpy.tl.dpt(cells, n_dcs=min(10, cells.obsm["X_diffmap"].shape[1]))
    found = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64).copy()
    found[~np.isfinite(found)] = np.nan
    _, component = connected_components(cells.obsp["connectivities"], directed=False)
    found[component != component[root]] = np.nan
    lost = int(np.isnan(found).sum())
    if lost:
        log.warning(
            "%d of %d cells are not connected with the root cell: their pseudotime is missing; more head.neighbours "
            "may connect them.",
            lost,
            len(found),
        )
    return found


def extreme_cell(cells: Any, candidates: np.ndarray) -> int:
    """The root among the cells of the root type: the one farthest, in three diffusion components, from all others.

    Args:
        cells: of :func:`neighbour_graph`.
        candidates: (n,) bool.

    Returns:
        Its row. Candidates in the component of the graph that has most of them go first.
    """
    _, component = connected_components(cells.obsp["connectivities"], directed=False)
    home = np.bincount(component[candidates]).argmax()
    inside = candidates & (component == home)
    others = ~candidates & (component == home)
    map_ = cells.obsm["X_diffmap"][:, 1:4]
    centre = map_[others if others.any() else inside].mean(axis=0)
    distance = np.where(inside, np.linalg.norm(map_ - centre, axis=1), -1.0)
    return int(distance.argmax())


def rank_scaled(values: np.ndarray) -> np.ndarray:
    """Ranks scaled to [0, 1], ties at their mean; nan stays."""
    from scipy.stats import rankdata

    found = np.full(len(values), np.nan, dtype=np.float32)
    known = np.isfinite(values)
    found[known] = (rankdata(values[known]) - 1) / max(known.sum() - 1, 1)
    return found


def absorption(
    graph: csr_matrix, time: np.ndarray, terminal: np.ndarray, n_fates: int, bias: float = 10.0
) -> np.ndarray:
    """Probabilities of ending in each terminal state, walking on the graph and rarely back in time.

    Steps i → j have weight w_ij, times 2/√(1 + e^{b (t_i − t_j)}) where t_j < t_i (the soft scheme of VIA, Stassen et
    al. 2021, and CellRank, Lange et al. 2022); terminal cells keep the walk.

    Args:
        graph: (n, n) connectivities.
        time: (n,) pseudotime in [0, 1], nan where missing: such cells take no part.
        terminal: (n,) code of the terminal state, -1 elsewhere.
        n_fates: number of states K.
        bias: b.

    Returns:
        (n, K) float32 rows of sum 1; nan for cells that reach no terminal cell.
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
    found = ends.copy()
    for fate in range(n_fates):
        found[~end, fate], trouble = bicgstab(system, walk[:, end] @ ends[end, fate], rtol=1e-6, maxiter=5000)
        if trouble:
            log.warning("The walk to terminal state %d did not settle; its fates are approximate.", fate)
    found = found.clip(min=0)
    reached = found.sum(axis=1)
    found[reached < 0.5] = np.nan
    return (found / np.where(reached < 0.5, 1, reached)[:, None]).astype(np.float32)
