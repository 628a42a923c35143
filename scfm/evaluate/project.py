"""Two-dimensional maps of embeddings."""

import warnings

import numpy as np

from scfm.evaluate.baseline import need
from scfm.evaluate.neighbors import find_neighbors


def umap_coordinates(
    embedding: np.ndarray, *, n_neighbors: int = 15, min_dist: float = 0.5, seed: int = 0, n_jobs: int = 1
) -> np.ndarray:
    """UMAP (McInnes et al., 2018) from exact neighbours.

    Args:
        embedding: (B, D).
        n_neighbors: the cell itself counted.
        min_dist: how closely cells may be drawn.
        seed: same seed, same map.
        n_jobs: threads for the neighbours.

    Returns:
        (B, 2) float32.

    Raises:
        ImportError: umap-learn is not installed.
    """
    umap = need("umap", '"scfm-framework[evaluate]"')
    near = find_neighbors(embedding, n_neighbors, n_jobs=n_jobs)
    known = (near.indices, near.distances.astype(np.float32), None)
    start = "spectral" if len(embedding) > n_neighbors + 5 else "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = umap.UMAP(
            n_neighbors=near.indices.shape[1],
            min_dist=min_dist,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=known,
            init=start,
        )
        return model.fit_transform(np.asarray(embedding, dtype=np.float32))
