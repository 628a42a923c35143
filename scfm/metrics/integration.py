"""How well an embedding keeps cell types together and batches mixed: the scIB family.

Definitions of scib-metrics 0.5.10 (Luecken et al., 2022; BRAS: Rautenstrauch & Ohler, 2025), unscaled. Totals of other
versions, of scIB itself and of Open Problems are not comparable with these.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import triu
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scfm.imports.optional import need
from scfm.metrics.mixing.kbet import kbet_per_label
from scfm.metrics.mixing.lisi import cilisi, clisi, ilisi
from scfm.metrics.mixing.silhouette import bras, isolated_labels, silhouette_label, silhouette_samples, to_codes
from scfm.metrics.neighbors import Neighbors, find_neighbors

VERSION = "definitions of scib-metrics 0.5.10, unscaled"
BIO = ("isolated_labels", "nmi", "ari", "silhouette_label", "clisi")
BATCH = ("bras", "ilisi", "kbet", "graph_connectivity", "pcr")


def nmi_ari(embedding: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Agreement of labels with k-means clusters, as many as there are labels."""
    n_labels = int(labels.max()) + 1
    clusters = KMeans(n_labels, n_init=5, random_state=seed).fit_predict(embedding)
    return float(normalized_mutual_info_score(labels, clusters)), float(adjusted_rand_score(labels, clusters))


def leiden_nmi(neighbors: Neighbors, labels: np.ndarray, seed: int = 0) -> float:
    """NMI of labels with Leiden clusters of the 15-NN graph, of the resolution (0.2, 0.4, ... 2.0) that agrees best.

    Raises:
        ModuleNotFoundError: igraph is not installed.
    """
    igraph = need("igraph", '"scfm-framework[evaluate]"')
    graph = triu(neighbors.nearest(15).connectivities(), k=1).tocoo()
    network = igraph.Graph(n=len(labels), edges=np.column_stack([graph.row, graph.col]).tolist())
    values = []
    for resolution in np.arange(0.2, 2.01, 0.2):
        with _fix_seed(igraph, seed):
            parts = network.community_leiden("modularity", weights=graph.data, resolution=resolution, n_iterations=2)
        values.append(normalized_mutual_info_score(labels, parts.membership))
    return float(max(values))


@contextmanager
def _fix_seed(igraph: Any, seed: int) -> Iterator[None]:
    """What igraph draws from is Python's random module, unless it is given another generator."""
    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


def graph_connectivity(neighbors: Neighbors, labels: np.ndarray) -> float:
    """Mean over labels of the largest strongly connected part of the label in the directed 15-NN graph."""
    graph = neighbors.directed()
    shares = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        _, component = connected_components(graph[own][:, own], connection="strong")
        shares.append(np.bincount(component).max() / len(own))
    return float(np.mean(shares))


def batch_variance(embedding: np.ndarray, batch: np.ndarray) -> float:
    """Share of the variance that the batch explains, Σ_k var_k R²_k / Σ_k var_k over all principal components.

    Sums of squares do not change under rotation, so this is the share between batches in the embedding itself.

    Args:
        embedding: (B, D).
        batch: (B,) codes.

    Returns:
        A number in [0, 1].
    """
    centered = np.asarray(embedding, dtype=np.float64) - embedding.mean(axis=0, dtype=np.float64)
    sizes = np.bincount(batch)
    means = np.stack([np.bincount(batch, weights=column) for column in centered.T], axis=1) / sizes[:, None]
    return float((sizes[:, None] * means**2).sum() / (centered**2).sum())


def pcr_comparison(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> float:
    """max(0, (pre − post) / pre): the share of the batch's variance that integration removed."""
    pre = batch_variance(before, batch)
    return max(0.0, (pre - batch_variance(after, batch)) / pre) if pre > 0 else float("nan")


def integration_scores(
    embedding: np.ndarray,
    labels: np.ndarray | None,
    batch: np.ndarray | None,
    unintegrated: np.ndarray,
    *,
    seed: int = 0,
    n_jobs: int = 1,
    leiden: bool = False,
) -> dict[str, float]:
    """All metrics of one embedding.

    Args:
        embedding: (B, D) finite numbers.
        labels: (B,) cell types, any values; None leaves ``ilisi`` and ``pcr`` alone.
        batch: (B,) batches, any values; None leaves the batch metrics and the total out.
        unintegrated: (B, D') what PCR compares with, PCA by custom.
        seed: of k-means.
        n_jobs: threads for neighbors.
        leiden: also ``nmi_leiden``, in no mean.

    Returns:
        Each metric of ``BIO`` and ``BATCH``, ``cilisi`` (in no mean), ``bio`` and ``batch`` means and
        ``total`` = 0.4 batch + 0.6 bio. A metric that cannot be computed is NaN and left out of its mean.
    """
    near = find_neighbors(embedding, 90, n_jobs=n_jobs)
    scores: dict[str, float] = {}
    if batch is not None:
        batch = to_codes(batch)
        scores |= {"ilisi": ilisi(near, batch), "pcr": pcr_comparison(unintegrated, embedding, batch)}
    if labels is None:
        return scores
    labels = to_codes(labels)
    samples = silhouette_samples(embedding, labels)
    scores |= {"silhouette_label": silhouette_label(samples), "clisi": clisi(near, labels)}
    scores["nmi"], scores["ari"] = nmi_ari(embedding, labels, seed)
    if leiden:
        scores["nmi_leiden"] = leiden_nmi(near, labels, seed)
    if batch is not None:
        scores |= {
            "isolated_labels": isolated_labels(samples, labels, batch),
            "bras": bras(embedding, labels, batch),
            "kbet": kbet_per_label(near.nearest(50), labels, batch),
            "graph_connectivity": graph_connectivity(near.nearest(15), labels),
            "cilisi": cilisi(embedding, labels, batch, n_jobs),
        }
    return _with_totals(scores)


def _with_totals(scores: dict[str, float]) -> dict[str, float]:
    """The scores with the means of scIB: 0.4 batch correction, 0.6 conservation of biology."""

    def mean(names: tuple[str, ...]) -> float:
        """Mean of the scores that are there and finite."""
        values = [scores[name] for name in names if np.isfinite(scores.get(name, np.nan))]
        return float(np.mean(values)) if values else float("nan")

    bio, batch = mean(BIO), mean(BATCH)
    if "bras" not in scores:
        return {"bio": bio, **scores}
    return {"total": 0.4 * batch + 0.6 * bio, "bio": bio, "batch": batch, **scores}
