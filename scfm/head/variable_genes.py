"""Genes that vary more than others of the same mean."""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def variable_genes(values: csr_matrix, n_genes: int) -> np.ndarray:
    """Genes of largest normalized dispersion (Satija et al., 2015; scanpy's flavor "seurat").

    Args:
        values: (B, G) log-normalized.
        n_genes: how many.

    Returns:
        Columns, ascending; at most ``n_genes``.
    """
    score = normalized_dispersion(values)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    return np.sort(order[: min(n_genes, int(np.isfinite(score).sum()))])


def batch_variable_genes(values: csr_matrix, batch: np.ndarray, n_genes: int) -> np.ndarray:
    """Genes that are variable inside most batches, so that none is chosen for a difference between batches.

    Genes are chosen in each batch (:func:`variable_genes`) and ranked by the number of batches that chose them, then by
    their mean normalized dispersion (scanpy's ``batch_key``).

    Args:
        values: (B, G) log-normalized.
        batch: (B,) batches, any values; those of fewer than three cells have no say.
        n_genes: how many.

    Returns:
        Columns, ascending; at most ``n_genes``.
    """
    names, counts = np.unique(batch, return_counts=True)
    names = names[counts > 2]
    if len(names) < 2:
        return variable_genes(values, n_genes)
    votes, scores = np.zeros(values.shape[1]), np.zeros((len(names), values.shape[1]))
    for place, name in enumerate(names):
        part = values[batch == name]
        seen = np.flatnonzero(part.getnnz(axis=0))
        votes[seen[variable_genes(part[:, seen], n_genes)]] += 1
        scores[place, seen] = normalized_dispersion(part[:, seen])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        mean = np.nan_to_num(np.nanmean(scores, axis=0), nan=-np.inf)
    order = np.lexsort([-mean, -votes])[:n_genes]
    return np.sort(order[votes[order] > 0])


def normalized_dispersion(values: csr_matrix) -> np.ndarray:
    """(G,) log variance over mean of each gene, standardized among the genes of like mean (20 bins); NaN where absent.

    Args:
        values: (B, G) log-normalized.
    """
    plain = values.astype(np.float64).expm1()
    n_cells = plain.shape[0]
    mean = np.asarray(plain.mean(axis=0)).ravel()
    square = np.asarray(plain.multiply(plain).mean(axis=0)).ravel()
    variance = np.maximum(square - mean**2, 0) * n_cells / max(n_cells - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = np.log(np.where(variance > 0, variance / np.where(mean > 0, mean, 1e-12), np.nan))
    table = pd.DataFrame({"bin": pd.cut(np.log1p(mean), bins=20, labels=False), "dispersion": dispersion})
    bins = table.groupby("bin")["dispersion"]
    center, spread = bins.transform("mean"), bins.transform("std")
    alone = spread.isna()
    spread, center = spread.mask(alone, center), center.mask(alone, 0.0)
    score: np.ndarray = ((table["dispersion"] - center) / spread).to_numpy()
    return score
