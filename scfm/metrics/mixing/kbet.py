"""kBET inside each label: do neighborhoods hold the batches in the label's own proportions (Büttner et al., 2019)?"""

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, diags
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.stats import chi2

from scfm.metrics.mixing.silhouette import to_codes
from scfm.metrics.neighbors import Neighbors, find_neighbors

#: Below this many cells all eigenvectors are computed at once, which is faster and exact.
DENSE = 1000


def kbet_per_label(neighbors: Neighbors, labels: np.ndarray, batch: np.ndarray, alpha: float = 0.05) -> float:
    """Share of cells whose neighborhood passes the χ² test, mean over labels.

    scib-metrics 0.5.10 lets a small label lower the number of diffusion components of all labels after it; here every
    label has min(100, cells − 1).

    Args:
        neighbors: 50 nearest cells.
        labels: (B,) codes.
        batch: (B,) codes.
        alpha: level of the test.

    Returns:
        The score; labels with fewer than 10 cells or with one batch are left out, NaN when none is left.
    """
    graph = neighbors.connectivities()
    scores = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) >= 10 and len(np.unique(batch[own])) > 1:
            scores.append(_label_score(graph[own][:, own], to_codes(batch[own]), alpha))
    return float(np.mean(scores)) if scores else float("nan")


def _label_score(graph: csr_matrix, batch: np.ndarray, alpha: float) -> float:
    mean_size = int(np.mean(np.bincount(batch)) // 4)
    k = int(np.clip(mean_size, 10, 70))
    _, component = connected_components(graph, directed=False)
    if component.max() > 0:
        keep = np.bincount(component)[component] >= 3 * k
        if keep.mean() < 0.75:
            return 0.0
        graph, batch = graph[keep][:, keep], to_codes(batch[keep])
    near = find_neighbors(diffusion_map(graph, 100), k + 1)
    return acceptance(batch[near.indices], batch, alpha)


def acceptance(neighbor_batches: np.ndarray, batch: np.ndarray, alpha: float) -> float:
    """Share of neighborhoods whose batch counts fit the overall proportions, p ≥ alpha.

    Args:
        neighbor_batches: (B, k) batch codes of each cell's neighbors.
        batch: (B,) batch codes, which give the expected proportions.
        alpha: level of the χ² test with one degree of freedom less than there are batches.

    Returns:
        The share; 1 when there is one batch.
    """
    n_batches = int(batch.max()) + 1
    if n_batches == 1:
        return 1.0
    expected = np.bincount(batch) / len(batch) * neighbor_batches.shape[1]
    observed = np.stack([(neighbor_batches == code).sum(axis=1) for code in range(n_batches)], axis=1)
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistic, n_batches - 1) >= alpha).mean())


def diffusion_map(graph: csr_matrix, n_components: int) -> np.ndarray:
    """Multiscale diffusion coordinates of a weighted graph (Coifman & Lafon, 2006; λ/(1−λ) sums over all times).

    Args:
        graph: (B, B) symmetric weights.
        n_components: eigenvectors of largest |λ|, at most B − 1.

    Returns:
        (B, min(n_components, B − 1)) coordinates.
    """
    density = diags(1 / np.asarray(graph.sum(axis=0)).ravel())
    kernel = density @ graph @ density
    root = diags(1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    values, vectors = _largest(csr_matrix(root @ kernel @ root), min(n_components, graph.shape[0] - 1))
    certain = np.abs(1 - values) < 1e-6
    return vectors * np.where(certain, 1.0, values / np.where(certain, 1.0, 1 - values))


def _largest(matrix: csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    if matrix.shape[0] > DENSE:
        start = np.random.default_rng(0).normal(size=matrix.shape[0])
        try:
            return eigsh(matrix, k=k, which="LM", v0=start)
        except ArpackNoConvergence as error:
            return error.eigenvalues, error.eigenvectors
    values, vectors = eigh(matrix.toarray())
    order = np.argsort(-np.abs(values))[:k]
    return values[order], vectors[:, order]
