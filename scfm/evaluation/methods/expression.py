"""Counts as a user prepares them by hand: log-normalized, highly variable genes, scaled, principal components."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from scfm.head.variable_genes import batch_variable_genes, variable_genes

#: Columns of var that hold gene symbols.
SYMBOLS = ("feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol")
N_GENES, N_COMPONENTS, N_BATCH_COMPONENTS, LARGEST = 2000, 50, 30, 10.0


@dataclass(frozen=True)
class Expression:
    """Log-normalized expression.

    Attributes:
        values: (B, G) CSR float32, log(1 + 10 000 · count / total).
        counts: (B, G) CSR, as stored.
        counts_from: where the counts were found.
        genes: (G,) names, symbols where the file has them.
    """

    values: csr_matrix
    counts: csr_matrix
    counts_from: str
    genes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=object))

    def select(self, rows: np.ndarray) -> Expression:
        """Only some of the cells."""
        return replace(self, values=self.values[rows], counts=self.counts[rows])

    def scaled(self, rows: np.ndarray | None = None, n_genes: int = N_GENES) -> np.ndarray:
        """Highly variable genes at mean 0 and variance 1, cut at ±10 (Seurat's and scanpy's recipe).

        Args:
            rows: the cells by which genes are chosen and scaled; None for all.
            n_genes: how many genes.

        Returns:
            (B, n_genes) float32 of all cells.
        """
        fitted = self.values if rows is None else self.values[rows]
        chosen = variable_genes(fitted, n_genes)
        part = fitted[:, chosen].toarray().astype(np.float64)
        mean, deviation = part.mean(axis=0), part.std(axis=0)
        whole = self.values[:, chosen].toarray()
        return ((whole - mean) / np.where(deviation > 0, deviation, 1)).clip(-LARGEST, LARGEST).astype(np.float32)

    def principal_components(self, rows: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """(B, 50) principal components of :meth:`scaled`, fitted on ``rows``."""
        from sklearn.decomposition import PCA

        values = self.scaled(rows)
        fitted = values if rows is None else values[rows]
        n_components = min(N_COMPONENTS, min(fitted.shape) - 1)
        return PCA(n_components, svd_solver="arpack", random_state=seed).fit(fitted).transform(values)

    def batch_components(self, batch: np.ndarray, seed: int = 0) -> np.ndarray:
        """(B, 30) principal components of 2000 genes that vary inside batches, log-normalized, not scaled.

        What Harmony does best from: on three sets of batches (nsclc by donor, onek1k, baron) its total is .640 on
        average from these, .621 from 30 components of scaled genes, .622 from :meth:`principal_components`.

        Args:
            batch: (B,) names.
            seed: of the components.
        """
        from sklearn.decomposition import PCA

        values = self.values[:, batch_variable_genes(self.values, batch, N_GENES)].toarray()
        n = min(N_BATCH_COMPONENTS, min(values.shape) - 1)
        return PCA(n, svd_solver="arpack", random_state=seed).fit_transform(values)


def read_expression(adata: AnnData, layer: str | None = None) -> Expression:
    """Find the counts of an AnnData and log-normalize them.

    Args:
        adata: cells; not modified.
        layer: where counts are; None looks into ``layers["counts"]``, ``raw.X``, ``X``.

    Returns:
        The expression.

    Raises:
        ValueError: no such layer, no counts (non-negative whole numbers) anywhere, or cells whose counts are NaN.
    """
    name, counts, genes, finite = _find_counts(adata, layer)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {len(finite)} cells have NaN or infinite counts in {name}")
    return Expression(_log_normalize(counts), counts, name, _symbols(genes))


def finite_counts(adata: AnnData, layer: str | None = None) -> np.ndarray:
    """(B,) bool: the cells whose counts are finite, where :func:`read_expression` finds them; raises as it does."""
    return _find_counts(adata, layer)[3]


def _find_counts(adata: AnnData, layer: str | None) -> tuple[str, csr_matrix, pd.DataFrame, np.ndarray]:
    """The first place whose finite cells hold counts: its name, counts and genes, and (B,) which cells these are."""
    places = _places(adata, layer)
    for name, matrix, genes in places:
        counts = csr_matrix(matrix) if issparse(matrix) else csr_matrix(np.asarray(matrix))
        finite = np.ones(counts.shape[0], dtype=bool)
        finite[np.repeat(np.arange(len(finite)), np.diff(counts.indptr))[~np.isfinite(counts.data)]] = False
        if finite.any() and _are_counts(counts if finite.all() else counts[finite]):
            return name, counts, genes, finite
    listed = ", ".join(name for name, _, _ in places)
    raise ValueError(
        f"no counts for the baselines: looked into {listed} and found values that are negative, not whole or not "
        "finite; name the layer that holds the counts (layer=...)"
    )


def _places(adata: AnnData, layer: str | None) -> list[tuple[str, object, pd.DataFrame]]:
    if layer is not None:
        if layer not in adata.layers:
            have = ", ".join(str(name) for name in adata.layers) or "none"
            raise ValueError(f"layer={layer!r} is not in the file; its layers are: {have}")
        return [(f'layers["{layer}"]', adata.layers[layer], adata.var)]
    places: list[tuple[str, object, pd.DataFrame]] = []
    if "counts" in adata.layers:
        places.append(('layers["counts"]', adata.layers["counts"], adata.var))
    if adata.raw is not None:
        places.append(("raw.X", adata.raw.X, adata.raw.var))
    if adata.X is not None:
        places.append(("X", adata.X, adata.var))
    if not places:
        raise ValueError("the file has no matrix at all: no X, no raw.X, no layers; the baselines need counts")
    return places


def _symbols(genes: pd.DataFrame) -> np.ndarray:
    column = next((name for name in SYMBOLS if name in genes), None)
    return np.asarray(genes.index if column is None else genes[column].astype(str), dtype=object)


def _are_counts(counts: csr_matrix) -> bool:
    values = counts.data
    return bool((values >= 0).all() and (values == np.floor(values)).all() and values.any())


def _log_normalize(counts: csr_matrix) -> csr_matrix:
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factor = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
    values = counts.astype(np.float32)
    values.data = np.log1p(values.data * np.repeat(factor, np.diff(values.indptr))).astype(np.float32)
    return values
