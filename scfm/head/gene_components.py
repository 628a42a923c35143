"""The wide path beside a deep backbone: linear components of a cell's ranked genes."""

from __future__ import annotations

import logging
from typing import Literal, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.survey import Survey
from scfm.types import Ragged
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

Counts = TypeVar("Counts", Tensor, np.ndarray)

#: Cells that the components are fitted on, at most.
MOST = 20_000

#: How much a gene of a cell adds; see :class:`GeneBag`.
Score = Literal["linear", "log", "counts"]

#: Counts of a cell are brought to this sum before their logarithm.
DEPTH = 10_000.0


class GeneBag(nn.Module):
    """Principal components of gene scores, the best linear summary of the very tokens that the backbone reads.

    A gene scores by its rank in the cell (:func:`rank_scores`), one that the cell lacks 0: rank instead of counts, and
    cells of all depths at about the same length. Where the store keeps counts, it can score by them instead. Components
    are centred and fitted once, on training cells without their labels; they are saved with the head, so that new cells
    need their tokens, and their counts where these score, alone.

    Args:
        vocab: says which tokens are genes.
        size: number of components k; 0 for none.
        score: ``log`` lets the most expressed genes count for more, which tells types apart; ``linear`` keeps the
            neighbourhoods on which diffusion runs; ``counts`` is log-normalised expression, ln(1 + 10,000 x / Σ x),
            which knows more where most genes are counted once and ranks are ties.

    Attributes:
        rows: (V, k), what each gene adds per score.
        centre: (k,), the components of the average training cell.
    """

    gene: Tensor
    rows: Tensor
    centre: Tensor

    def __init__(self, vocab: Vocab, size: int, score: Score = "linear") -> None:
        super().__init__()
        self.size, self.score = size, score
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
        scores = self._scores(survey.tokens(places), None if survey.counts is None else survey.counts(places))
        mean, directions = principal_directions(scores, self.size)
        found = scores @ directions.T - mean @ directions.T
        scale = np.sqrt(self.size / max((found**2).sum(1).mean(), 1e-12))
        self.rows[:, : len(directions)] = torch.from_numpy(directions.T * scale).to(self.rows)
        self.centre[: len(directions)] = torch.from_numpy(mean @ directions.T * scale).to(self.centre)

    def forward(self, batch: Batch) -> Tensor:
        """(B, k) float32."""
        if self.size == 0:
            return self.rows.new_zeros(batch.n_cells, 0)
        scores = gene_scores(self.gene[batch.ids], batch, self.score)
        summed = F.embedding_bag(
            batch.ids, self.rows, batch.boundaries[:-1].long(), mode="sum", per_sample_weights=scores
        )
        return summed - self.centre

    def of(self, cells: Ragged, counts: np.ndarray | None = None) -> np.ndarray:
        """The same of many cells, (n, k) float32, outside of training; ``counts`` (T,) beside their tokens."""
        scores = self._scores(cells, counts)
        return (scores @ self.rows.cpu().numpy() - self.centre.cpu().numpy()).astype(np.float32)

    def _scores(self, cells: Ragged, counts: np.ndarray | None) -> csr_matrix:
        return score_matrix(cells, self.gene.cpu().numpy() > 0, self.score, counts)


def count_scores(counts: Tensor, total: Tensor) -> Tensor:
    """ln(1 + 10,000 · count / total), ``total`` being that of the gene's cell; 0 where it is 0."""
    return (DEPTH * counts / total.clamp(min=1e-12)).log1p()


def rank_scores(rank: Tensor, n: Tensor, score: Score) -> Tensor:
    """What the gene at rank r = 0, 1, … of n scores: the squares of a cell sum up to a number near 7/12, or near 1.

    Returns:
        ``linear``: (1 − r / 2n) / √n; ``log``: √(ln((n + 1) / (r + 1)) / n).
    """
    if score == "linear":
        return (1 - rank / (2 * n)) / n.sqrt()
    return (((n + 1) / (rank + 1)).log() / n).sqrt()


def gene_scores(gene: Tensor, batch: Batch, score: Score = "linear") -> Tensor:
    """(T,) float32: the score of each gene of packed cells, 0 for tokens that are no genes.

    Args:
        gene: (T,) 1 where the token is a gene, else 0.
        batch: packed cells.
        score: see :class:`GeneBag`.

    Raises:
        ValueError: counts are to score, and the batch carries none.
    """
    cell = torch.repeat_interleave(
        torch.arange(batch.n_cells, device=gene.device), batch.lengths, output_size=batch.n_tokens
    )
    if score == "counts":
        counts = gene * _required(batch.counts)
        total = counts.new_zeros(batch.n_cells).index_add(0, cell, counts)
        return count_scores(counts, total[cell]).float()
    seen = gene.double().cumsum(0)  # exact far beyond the 2^24 of float32
    before = torch.cat([seen.new_zeros(1), seen])[batch.boundaries.long()]
    n = (before[1:] - before[:-1]).clamp(min=1)[cell]
    rank = seen - 1 - before[:-1][cell]
    return (gene * rank_scores(rank.clamp(min=0), n, score)).float()


def score_matrix(
    cells: Ragged, gene: np.ndarray, score: Score = "linear", counts: np.ndarray | None = None
) -> csr_matrix:
    """The same scores of many cells, (B, V) float32 CSR.

    Args:
        cells: token ids.
        gene: (V,) bool, which tokens are genes.
        score: see :class:`GeneBag`.
        counts: (T,) beside each token; needed where counts score.

    Raises:
        ValueError: they are needed and not given.
    """
    ids = cells.values.astype(np.int64)
    is_gene = gene[ids]
    seen = np.concatenate([[0], np.cumsum(is_gene)])[cells.offsets]
    ids, n = ids[is_gene], np.diff(seen)
    if score == "counts":
        own = _required(counts)[is_gene].astype(np.float64)
        total = np.diff(np.concatenate([[0.0], own.cumsum()])[seen])
        values = count_scores(torch.from_numpy(own), torch.from_numpy(np.repeat(total, n)))
    else:
        rank = np.arange(len(ids)) - np.repeat(seen[:-1], n)
        values = rank_scores(torch.from_numpy(rank).double(), torch.from_numpy(np.repeat(n, n)).double(), score)
    return csr_matrix((values.float().numpy(), ids, seen), shape=(len(cells), len(gene)))


def _required(counts: Counts | None) -> Counts:
    if counts is None:
        raise ValueError(
            "head.counts=true reads counts, but the store keeps ranks only: prepare it again with keep_counts=true, or "
            "set head.counts=false"
        )
    return counts


def principal_directions(scores: csr_matrix, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V,) and principal directions (≤ size, V) of sparse rows, without filling them."""
    from sklearn.decomposition import PCA

    size = min(size, min(scores.shape) - 1)
    fitted = PCA(size, svd_solver="arpack", random_state=0).fit(scores.astype(np.float64))
    log.info("%d gene components keep %.0f %% of the variance.", size, 100 * fitted.explained_variance_ratio_.sum())
    return fitted.mean_, fitted.components_
