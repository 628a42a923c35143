"""Principal components of variable genes: the summary of counts that most analyses of single cells begin with."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import PRESENCE, Batch
from scfm.head.gene_components import MAX_FIT, gene_scores, score_matrix
from scfm.head.survey import Survey
from scfm.head.variable_genes import batch_variable_genes, variable_genes
from scfm.types import Ragged
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: Genes that the components are made of, at most.
N_GENES = 2000
#: Standard deviations from the mean at which a scaled gene is cut.
LARGEST = 10.0
#: Cells that are held densely at once.
BLOCK = 2048


class VariableComponents(nn.Module):
    """Components of log-normalized, scaled expression of variable genes (the recipe of Seurat and scanpy).

    x = ln(1 + 10,000 · count / Σ count) over the genes that have a token; z = (x − μ) / σ of 2,000 genes, cut at ±10;
    then the principal components of z, scaled to a mean square of 1 over components and cells. Genes, μ, σ and
    components are fitted once, on training cells without their labels, and saved with the head: a new cell needs its
    own counts, no other cell. A gene that no training cell has does not count; one that a new cell lacks counts as 0.

    Args:
        vocab: defines which tokens are genes.
        width: number of components k.
        scaled: divide by σ; else z = x − μ, of which integration keeps more biology.
        batch_key: obs column of batches; genes are then those that vary inside batches
            (:func:`scfm.head.variable_genes.batch_variable_genes`). None: those that vary over all cells.

    Attributes:
        mean: (V,) μ; 0 for genes that are not chosen.
        precision: (V,) 1/σ; 0 for genes that are not chosen.
        loadings: (V, k), what a unit of z adds.
        center: (k,), the components of the average training cell, less those of a cell without any gene.
    """

    gene: Tensor
    mean: Tensor
    precision: Tensor
    loadings: Tensor
    center: Tensor

    def __init__(self, vocab: Vocab, width: int, *, scaled: bool = True, batch_key: str | None = None) -> None:
        super().__init__()
        self.width, self.scaled, self.batch_key = width, scaled, batch_key
        gene = torch.zeros(len(vocab))
        gene[torch.from_numpy(vocab.gene_ids.astype(np.int64))] = 1
        self.register_buffer("gene", gene, persistent=False)
        self.register_buffer("mean", torch.zeros(len(vocab)))
        self.register_buffer("precision", torch.zeros(len(vocab)))
        self.register_buffer("loadings", torch.zeros(len(vocab), width))
        self.register_buffer("center", torch.zeros(width))

    def prepare(self, survey: Survey) -> None:
        """Choose genes and fit the components on the training cells, or on 20,000 of them at even distances.

        Where there are fewer cells or genes than components, the last components are 0.

        Raises:
            ValueError: the survey has no counts, or fewer than three training cells.
        """
        places = np.flatnonzero(survey.train)
        if survey.tokens is None or survey.counts is None or len(places) < 3:
            raise ValueError(
                f"head.variable_components={self.width} needs the counts of at least 3 training cells; set "
                "head.variable_components=0"
            )
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MAX_FIT)).astype(np.int64))]
        batch = None if self.batch_key is None else survey.obs[self.batch_key][places]
        self.fit(self.expression(survey.tokens(places), survey.counts(places)), batch)

    @torch.no_grad()
    def fit(self, values: csr_matrix, batch: np.ndarray | None = None) -> None:
        """Fit to cells (n, V), log-normalized, of batches (n,); see :meth:`prepare`."""
        seen = np.flatnonzero(np.diff(values.tocsc().indptr))
        if batch is None:
            chosen = seen[variable_genes(values[:, seen], N_GENES)]
        else:
            chosen = seen[batch_variable_genes(values[:, seen], batch, N_GENES)]
        part = values[:, chosen].astype(np.float64)
        mean = np.asarray(part.mean(axis=0)).ravel()
        deviation = np.sqrt(np.maximum(np.asarray(part.multiply(part).mean(axis=0)).ravel() - mean**2, 0))
        precision = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        if not self.scaled:
            precision = (deviation > 0).astype(np.float64)
        center, directions, scale = _principal_axes(part, mean, precision, self.width)
        ids = torch.from_numpy(chosen)
        self.mean[ids] = torch.from_numpy(mean).to(self.mean)
        self.precision[ids] = torch.from_numpy(precision).to(self.precision)
        self.loadings[ids, : len(directions)] = torch.from_numpy(directions.T * scale).to(self.loadings)
        absent = (-mean * precision).clip(-LARGEST, LARGEST)
        self.center[: len(directions)] = torch.from_numpy((center - absent) @ directions.T * scale).to(self.center)

    def forward(self, batch: Batch) -> Tensor:
        """The components, (B, k) float32."""
        values = gene_scores(self.gene[batch.ids], batch, "counts")
        scaled = self._standardize(values, self.mean[batch.ids], self.precision[batch.ids]) * self.gene[batch.ids]
        if PRESENCE in batch.token_fields:
            scaled = scaled * batch.token_fields[PRESENCE]
        summed = F.embedding_bag(
            batch.ids, self.loadings, batch.boundaries[:-1].long(), mode="sum", per_sample_weights=scaled
        )
        return summed - self.center

    def transform(self, cells: Ragged, counts: np.ndarray | None) -> np.ndarray:
        """The components of many cells, (n, k) float32, outside of training; ``counts`` (T,) beside their tokens."""
        values = self.expression(cells, counts)
        mean, precision = self.mean.cpu()[values.indices], self.precision.cpu()[values.indices]
        values.data = self._standardize(torch.from_numpy(values.data), mean, precision).numpy()
        return (values @ self.loadings.cpu().numpy() - self.center.cpu().numpy()).astype(np.float32)

    @staticmethod
    def _standardize(values: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
        """Z of genes that a cell has, less z where it lacks them."""
        absent = (-mean * precision).clamp(-LARGEST, LARGEST)
        return ((values - mean) * precision).clamp(-LARGEST, LARGEST) - absent

    def expression(self, cells: Ragged, counts: np.ndarray | None) -> csr_matrix:
        """Log-normalized expression of many cells, (n, V); ``counts`` (T,) beside their tokens."""
        return score_matrix(cells, self.gene.cpu().numpy() > 0, "counts", counts)


def _principal_axes(
    part: csr_matrix, mean: np.ndarray, precision: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (G,) of the scaled genes, their principal directions (≤ n, G), and the factor to a mean square of 1.

    From the G × G covariance, block by block, so that the cells are never all dense.
    """
    total, product = np.zeros(part.shape[1]), np.zeros((part.shape[1], part.shape[1]))
    for start in range(0, part.shape[0], BLOCK):
        scaled = ((part[start : start + BLOCK].toarray() - mean) * precision).clip(-LARGEST, LARGEST)
        total += scaled.sum(axis=0)
        product += scaled.T @ scaled
    center = total / part.shape[0]
    covariance = product / part.shape[0] - np.outer(center, center)
    size = min(n, part.shape[0] - 1, part.shape[1])
    variances, directions = eigh(covariance, subset_by_index=[part.shape[1] - size, part.shape[1] - 1])
    kept = variances.clip(min=0).sum()
    log.info(
        "%d components of %d variable genes keep %.0f %% of their variance.",
        size, part.shape[1], 100 * kept / max(np.trace(covariance), 1e-12),
    )  # fmt: skip
    return center, directions.T[::-1], float(np.sqrt(n / max(kept, 1e-12)))
