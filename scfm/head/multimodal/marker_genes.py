"""Genes that tell the most about single targets: read beside the components, which blur them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.gene_components import GeneScore, gene_scores, score_matrix
from scfm.types import Ragged
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: A gene counts if at least this many training cells have it.
MIN_CELLS = 20
#: The least |r| √n of a gene that is taken.
LEAST = 4.0
#: Standardized expression is cut here.
LARGEST = 10.0


class MarkerGenes(nn.Module):
    """Standardized expression of chosen genes, one column for each.

    For each target, the genes are chosen that correlate most with what the components leave unexplained: the gene that
    encodes a protein, mostly. They are chosen on training cells and saved with the head.

    Args:
        vocab: defines which tokens are genes.
        width: number of columns M at most; 0 for none.
        score: how expression is measured: ``counts`` (log-normalized) or ``log`` (by rank).

    Attributes:
        column: (V,) int64, the column of each token, -1 for none.
        mean, precision: (M,) of the training cells; a precision of 0 is a column without a gene.
    """

    gene: Tensor
    column: Tensor
    mean: Tensor
    precision: Tensor

    def __init__(self, vocab: Vocab, width: int, score: GeneScore) -> None:
        super().__init__()
        self.width, self.score = width, score
        gene = torch.zeros(len(vocab))
        gene[torch.from_numpy(vocab.gene_ids.astype(np.int64))] = 1
        self.register_buffer("gene", gene, persistent=False)
        self.register_buffer("column", torch.full((len(vocab),), -1, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("precision", torch.zeros(width))

    def fit(self, cells: Ragged, counts: np.ndarray | None, residuals: np.ndarray, each: int) -> None:
        """Choose genes on training cells.

        Args:
            cells: their tokens.
            counts: (T,) beside them; needed where the score is ``counts``.
            residuals: (n, P) what is left of each target, NaN where missing.
            each: genes of a target.
        """
        values = self._expression(cells, counts)
        mean, sd, correlation = correlate(values, residuals)
        chosen: list[int] = []
        enough = np.sqrt(np.isfinite(residuals).sum(axis=0))
        for target in range(residuals.shape[1]):
            strength = np.abs(correlation[target])
            best = np.argsort(-strength, kind="stable")[:each]
            chosen += best[strength[best] * enough[target] > LEAST].tolist()
        ids = np.unique(np.array(chosen, dtype=np.int64))[: self.width]
        self.column[torch.from_numpy(ids)] = torch.arange(len(ids))
        self.mean[: len(ids)] = torch.from_numpy(mean[ids]).to(self.mean)
        self.precision[: len(ids)] = torch.from_numpy(1 / sd[ids]).to(self.precision)
        log.info("%d genes are read one by one, for %d targets.", len(ids), residuals.shape[1])

    def forward(self, batch: Batch) -> Tensor:
        """The columns, (B, M) float32."""
        values = gene_scores(self.gene[batch.ids], batch, self.score)
        table = self._table(values, self.column[batch.ids], batch.token_cell, batch.n_cells)
        return _standardize(table, self.mean, self.precision)

    def transform(self, cells: Ragged, counts: np.ndarray | None) -> np.ndarray:
        """The columns of many cells, (n, M) float32, outside of training."""
        values = self._expression(cells, counts).tocoo()
        cell, column = torch.from_numpy(values.row.astype(np.int64)), self.column.cpu()[values.col]
        table = self._table(torch.from_numpy(values.data), column, cell, values.shape[0])
        return _standardize(table, self.mean.cpu(), self.precision.cpu()).numpy()

    def _table(self, values: Tensor, column: Tensor, cell: Tensor, n_cells: int) -> Tensor:
        """(n, M) values by cell and column; tokens without a column fall into one that is cut off."""
        place = torch.where(column >= 0, column, self.width)
        table = values.new_zeros(n_cells, self.width + 1).index_put((cell, place), values, accumulate=True)
        return table[:, : self.width]

    def _expression(self, cells: Ragged, counts: np.ndarray | None) -> csr_matrix:
        return score_matrix(cells, self.gene.cpu().numpy() > 0, self.score, counts)


def _standardize(table: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    return ((table - mean) * precision).clamp(-LARGEST, LARGEST)


def correlate(values: csr_matrix, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pearson correlations of genes with targets, over the cells that have the target.

    Args:
        values: (n, V) expression.
        residuals: (n, P), NaN where missing.

    Returns:
        Mean and sd (V,) of the genes over all cells, correlations (P, V); 0 for genes of few cells.
    """
    n = values.shape[0]
    squares = values.multiply(values).tocsr()
    mean = np.asarray(values.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(squares.mean(axis=0)).ravel() - mean**2, 1e-12))
    often = np.bincount(values.indices, minlength=values.shape[1]) >= min(MIN_CELLS, n // 4)
    found = np.zeros((residuals.shape[1], values.shape[1]))
    for target in range(residuals.shape[1]):
        known = np.isfinite(residuals[:, target])
        if known.sum() < 3:
            continue
        y = residuals[known, target] - residuals[known, target].mean()
        part, part_squares = values[known], squares[known]
        own = np.asarray(part.mean(axis=0)).ravel()
        spread = np.sqrt(np.maximum(np.asarray(part_squares.mean(axis=0)).ravel() - own**2, 1e-12))
        found[target] = np.asarray(part.T @ y).ravel() / known.sum() / spread / max(y.std(), 1e-12)
    found[:, ~often] = 0
    return mean, sd, found
