"""Edges between genes from expression alone: what a network of a model has to beat.

Every function takes values (B, G) of the same cells and gives scores (G, G), larger for a stronger edge.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def pearson(values: np.ndarray) -> np.ndarray:
    """|Pearson correlation|; 0 for a constant gene."""
    return np.abs(_correlation(values))


def spearman(values: np.ndarray) -> np.ndarray:
    """|Spearman correlation|; 0 for a constant gene."""
    return np.abs(_correlation(rankdata(values, axis=0)))


def partial_correlation(values: np.ndarray) -> np.ndarray:
    """|partial correlation| given all other genes, of a shrunk correlation matrix.

    R* = (1 − λ) R + λ I with λ = Σ Var(r_ij) / Σ r_ij² over i ≠ j (Schäfer & Strimmer 2005, equation 10), which can be
    inverted with fewer cells than genes.
    """
    z = _standardized(values)
    shrunk = shrunk_correlation(z)
    precision = np.linalg.inv(shrunk)
    scale = np.sqrt(np.diag(precision))
    partial = np.abs(precision / np.outer(scale, scale))
    np.fill_diagonal(partial, 1.0)
    return partial


def mutual_information(values: np.ndarray, n_bins: int = 4) -> np.ndarray:
    """Mutual information in nats of genes cut into ``0`` and ``n_bins - 1`` quantile bins of the positive values.

    Sparse counts have many zeros, which quantiles of all values would split at random.
    """
    n_cells, n_genes = values.shape
    levels = np.zeros((n_cells, n_genes), dtype=np.int64)
    for gene in range(n_genes):
        seen = values[:, gene] > 0
        if seen.any():
            share = (rankdata(values[seen, gene]) - 0.5) / seen.sum()
            levels[seen, gene] = 1 + np.minimum((share * (n_bins - 1)).astype(np.int64), n_bins - 2)
    hot = (levels[:, :, None] == np.arange(n_bins)).astype(np.float64).reshape(n_cells, -1)
    joint = (hot.T @ hot / n_cells).reshape(n_genes, n_bins, n_genes, n_bins)
    single = hot.mean(axis=0).reshape(n_genes, n_bins)
    expected = single[:, :, None, None] * single[None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log(joint / expected), 0.0)
    return np.maximum(terms.sum(axis=(1, 3)), 0)


def hub(values: np.ndarray) -> np.ndarray:
    """Product of the mean values of both genes: an edge between any two genes that are common."""
    mean = values.mean(axis=0)
    return np.outer(mean, mean)


#: By the name that reports use.
ASSOCIATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pearson": pearson,
    "spearman": spearman,
    "partial_correlation": partial_correlation,
    "mutual_information": mutual_information,
    "hub": hub,
}


def shrunk_correlation(z: np.ndarray) -> np.ndarray:
    """Correlation matrix shrunk toward the identity.

    Args:
        z: (B, G) of mean 0 and variance 1 (B − 1 in the denominator); a constant gene is all 0.
    """
    n_cells = len(z)
    correlation = z.T @ z / (n_cells - 1)
    np.fill_diagonal(correlation, 1.0)
    products = z.T @ z / n_cells
    squares = (z**2).T @ z**2 - n_cells * products**2
    variance = n_cells / (n_cells - 1) ** 3 * squares
    off = ~np.eye(len(correlation), dtype=bool)
    below = (correlation[off] ** 2).sum()
    strength = 1.0 if below == 0 else float(np.clip(variance[off].sum() / below, 0, 1))
    shrunk = (1 - strength) * correlation
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


def forest_importance(values: np.ndarray, regulators: np.ndarray, *, n_trees: int = 50, seed: int = 0) -> np.ndarray:
    """How much each regulator helps to predict each gene from all regulators, by random forests (GENIE3).

    The importance is the share of the variance of the standardized target that splits on the regulator remove, over
    trees that try √F regulators a split (Huynh-Thu et al. 2010).

    Args:
        values: (B, G) expression.
        regulators: (F,) columns that may regulate.
        n_trees: of each target.
        seed: of the trees.

    Returns:
        (G, G) regulator × target; NaN in rows that are no regulators and on the diagonal.
    """
    from sklearn.ensemble import RandomForestRegressor

    z = _standardized(values)
    scores = np.full((z.shape[1], z.shape[1]), np.nan)
    for target in range(z.shape[1]):
        inputs = regulators[regulators != target]
        if not z[:, target].any() or not len(inputs):
            scores[inputs, target] = 0.0
            continue
        forest = RandomForestRegressor(n_trees, max_features="sqrt", min_samples_leaf=3, random_state=seed)
        scores[inputs, target] = forest.fit(z[:, inputs], z[:, target]).feature_importances_
    return scores


def cosine(vectors: np.ndarray) -> np.ndarray:
    """Cosine of gene vectors (G, D) -> (G, G); NaN for a gene without a vector (NaN or zeros)."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / length
    return unit @ unit.T


def remove_confounders(scores: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What is left of edge scores after a linear fit on properties of both genes.

    Scores become normal quantiles of their ranks first. Attention follows rank and frequency of genes; what is left
    does not.

    Args:
        scores: (G, G), NaN where there is no edge; the diagonal is ignored.
        features: (G, F) of each gene, mean rank and detection say; the source's, the target's and their products enter.

    Returns:
        (G, G) residuals, NaN where there is no score.
    """
    from scipy.special import ndtri

    n_genes = len(scores)
    use = np.isfinite(scores) & ~np.eye(n_genes, dtype=bool)
    source, target = np.nonzero(use)
    residuals = np.full(scores.shape, np.nan)
    if not len(source):
        return residuals
    z = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    design = np.column_stack([np.ones(len(source)), z[source], z[target], z[source] * z[target]])
    quantile = ndtri((rankdata(scores[use]) - 0.5) / len(source))
    fitted = np.linalg.lstsq(design, quantile, rcond=None)[0]
    residuals[use] = quantile - design @ fitted
    return residuals


def _standardized(values: np.ndarray) -> np.ndarray:
    centered = values - values.mean(axis=0)
    deviation = centered.std(axis=0, ddof=1)
    return np.divide(centered, deviation, out=np.zeros_like(centered, dtype=np.float64), where=deviation > 1e-12)


def _correlation(values: np.ndarray) -> np.ndarray:
    z = _standardized(np.asarray(values, dtype=np.float64))
    return (z.T @ z / (len(z) - 1)).clip(-1, 1)
