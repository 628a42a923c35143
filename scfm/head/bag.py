"""The wide path beside a deep backbone: linear components of a cell's ranked genes."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.survey import Survey
from scfm.types import Batch, Ragged
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: Cells that the components are fitted on, at most.
MOST = 20_000


class GeneBag(nn.Module):
    """Principal components of gene scores, the best linear summary of the very tokens that the backbone reads.

    The gene at rank r of a cell's n genes scores (1 − r / 2n) / √n, one that the cell lacks 0: rank in the cell
    instead of counts, and cells of all depths at about the same length. Components are centred and fitted once, on
    training cells without their labels; they are saved with the head, so that new cells need their tokens alone.

    Args:
        vocab: says which tokens are genes.
        size: number of components k; 0 for none.

    Attributes:
        rows: (V, k), what each gene adds per score.
        centre: (k,), the components of the average training cell.
    """

    gene: Tensor
    rows: Tensor
    centre: Tensor

    def __init__(self, vocab: Vocab, size: int) -> None:
        super().__init__()
        self.size = size
        gene = torch.zeros(len(vocab))
        gene[torch.from_numpy(vocab.gene_ids.astype(np.int64))] = 1
        self.register_buffer("gene", gene, persistent=False)
        self.register_buffer("rows", torch.zeros(len(vocab), size))
        self.register_buffer("centre", torch.zeros(size))

    def prepare(self, survey: Survey) -> None:
        """Fit the components on the training cells, at most 20,000 of them, evenly spread.

        They are scaled to a mean square of 1 over components and cells; where cells are too few, the last are 0.

        Raises:
            ValueError: the survey has no tokens, or fewer than three training cells.
        """
        if self.size == 0:
            return
        places = np.flatnonzero(survey.train)
        if survey.tokens is None or len(places) < 3:
            raise ValueError(f"head.genes={self.size} needs the tokens of at least 3 training cells; set head.genes=0")
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST)).astype(np.int64))]
        scores = score_matrix(survey.tokens(places), self.gene.cpu().numpy() > 0)
        mean, directions = principal_directions(scores, self.size)
        found = scores @ directions.T - mean @ directions.T
        scale = np.sqrt(self.size / max((found**2).sum(1).mean(), 1e-12))
        self.rows[:, : len(directions)] = torch.from_numpy(directions.T * scale).to(self.rows)
        self.centre[: len(directions)] = torch.from_numpy(mean @ directions.T * scale).to(self.centre)

    def forward(self, batch: Batch) -> Tensor:
        """(B, k) float32."""
        if self.size == 0:
            return self.rows.new_zeros(batch.n_cells, 0)
        scores = gene_scores(self.gene[batch.ids], batch)
        summed = F.embedding_bag(
            batch.ids, self.rows, batch.boundaries[:-1].long(), mode="sum", per_sample_weights=scores
        )
        return summed - self.centre

    def of(self, cells: Ragged) -> np.ndarray:
        """The same of many cells, (n, k) float32, outside of training."""
        scores = score_matrix(cells, self.gene.cpu().numpy() > 0)
        return (scores @ self.rows.cpu().numpy() - self.centre.cpu().numpy()).astype(np.float32)


def gene_scores(gene: Tensor, batch: Batch) -> Tensor:
    """(T,) float32: (1 − r / 2n) / √n of the gene at rank r of n, 0 for tokens that are no genes.

    Args:
        gene: (T,) 1 where the token is a gene, else 0.
        batch: packed cells.
    """
    cell = torch.repeat_interleave(
        torch.arange(batch.n_cells, device=gene.device), batch.lengths, output_size=batch.n_tokens
    )
    seen = gene.double().cumsum(0)  # exact far beyond the 2^24 of float32
    before = torch.cat([seen.new_zeros(1), seen])[batch.boundaries.long()]
    n = (before[1:] - before[:-1]).clamp(min=1)[cell]
    rank = seen - 1 - before[:-1][cell]
    return (gene * (1 - rank / (2 * n)) / n.sqrt()).float()


def score_matrix(cells: Ragged, gene: np.ndarray) -> csr_matrix:
    """The same scores of many cells, (B, V) float32 CSR.

    Args:
        cells: token ids.
        gene: (V,) bool, which tokens are genes.
    """
    ids = cells.values.astype(np.int64)
    is_gene = gene[ids]
    seen = np.concatenate([[0], np.cumsum(is_gene)])[cells.offsets]
    ids, n = ids[is_gene], np.diff(seen)
    rank = np.arange(len(ids)) - np.repeat(seen[:-1], n)
    each = np.repeat(n, n)
    values = ((1 - rank / (2 * each)) / np.sqrt(each)).astype(np.float32)
    return csr_matrix((values, ids, seen), shape=(len(cells), len(gene)))


def principal_directions(scores: csr_matrix, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V,) and principal directions (≤ size, V) of sparse rows, without filling them."""
    from sklearn.decomposition import PCA

    size = min(size, min(scores.shape) - 1)
    fitted = PCA(size, svd_solver="arpack", random_state=0).fit(scores.astype(np.float64))
    log.info("%d gene components keep %.0f %% of the variance.", size, 100 * fitted.explained_variance_ratio_.sum())
    return fitted.mean_, fitted.components_
