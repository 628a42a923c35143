"""Communities of a graph of cells."""

from __future__ import annotations

import random

import numpy as np
from scipy.sparse import csr_matrix, triu

from scfm.imports.optional import need


def leiden_clusters(graph: csr_matrix, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Leiden communities (Traag et al. 2019) by modularity, numbered from the largest.

    Args:
        graph: (n, n) symmetric weights.
        resolution: more gives more communities.
        seed: of the order in which nodes are moved.

    Returns:
        (n,) int64.

    Raises:
        ModuleNotFoundError: igraph is not installed.
    """
    igraph = need("igraph", '"scfm-framework[evaluate]"')
    upper = triu(graph, k=1).tocoo()
    network = igraph.Graph(n=graph.shape[0], edges=list(zip(upper.row.tolist(), upper.col.tolist(), strict=True)))
    state = random.getstate()
    random.seed(seed)  # igraph draws from it
    try:
        parts = network.community_leiden("modularity", weights=upper.data, resolution=resolution, n_iterations=4)
    finally:
        random.setstate(state)
    _, codes, sizes = np.unique(parts.membership, return_inverse=True, return_counts=True)
    place = np.empty(len(sizes), dtype=np.int64)
    place[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return place[codes]
