"""Genes that vary more than others of the same mean."""

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
    score = ((table["dispersion"] - center) / spread).to_numpy()
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    return np.sort(order[: min(n_genes, int(np.isfinite(score).sum()))])
