"""Linear components of a cell's ranked genes: the wide path beside a deep backbone."""

from __future__ import annotations

import logging
from typing import Literal, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import PRESENCE, Batch
from scfm.head.survey import Survey
from scfm.types import Ragged
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

Counts = TypeVar("Counts", Tensor, np.ndarray)

#: Cells that the components are fitted on, at most.
MAX_FIT = 20_000

#: How much a gene of a cell adds; see :class:`GeneComponents`.
GeneScore = Literal["linear", "log", "counts"]

#: Counts of a cell are brought to this sum before their logarithm.
DEPTH = 10_000.0


class GeneComponents(nn.Module):
    """Principal components of gene scores: a linear summary of the tokens that the backbone reads.

    The score of a gene follows from its rank in the cell (:func:`rank_scores`) and is 0 where the cell lacks the gene,
    so that shallow and deep cells have score vectors of about the same length. Where the store keeps counts, scores can
    follow from counts instead. The components are centered and fitted once, on training cells without their labels, and
    saved with the head: new cells need their tokens (and counts, where these score), no other cell.

    Args:
        vocab: defines which tokens are genes.
        width: number of components k; 0 for none.
        score: ``log`` gives the most expressed genes more weight, which separates types; ``linear`` preserves the
            neighborhoods that diffusion needs; ``counts`` is log-normalized expression, ln(1 + 10,000 x / Σ x), which
            is more precise in shallow cells, where most genes are counted once and their ranks are ties.

    Attributes:
        loadings: (V, k), what each gene adds per unit of score.
        center: (k,), the components of the average training cell.
    """

    gene: Tensor
    loadings: Tensor
    center: Tensor

    def __init__(self, vocab: Vocab, width: int, score: GeneScore = "linear") -> None:
        super().__init__()
        self.width, self.score = width, score
        gene = torch.zeros(len(vocab))
        gene[torch.from_numpy(vocab.gene_ids.astype(np.int64))] = 1
        self.register_buffer("gene", gene, persistent=False)
        self.register_buffer("loadings", torch.zeros(len(vocab), width))
        self.register_buffer("center", torch.zeros(width))

    def prepare(self, survey: Survey) -> None:
        """Fit the components on the training cells, or on 20,000 of them at even distances.

        They are scaled to a mean square of 1 over components and cells. Where there are fewer cells than components,
        the last components are 0.

        Raises:
            ValueError: the survey has no tokens, or fewer than three training cells.
        """
        if self.width == 0:
            return
        places = np.flatnonzero(survey.train)
        if survey.tokens is None or len(places) < 3:
            raise ValueError(
                f"head.gene_components={self.width} needs the tokens of at least 3 training cells; set "
                "head.gene_components=0"
            )
        places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MAX_FIT)).astype(np.int64))]
        scores = self._scores(survey.tokens(places), None if survey.counts is None else survey.counts(places))
        mean, directions = principal_directions(scores, self.width)
        components = scores @ directions.T - mean @ directions.T
        scale = np.sqrt(self.width / max((components**2).sum(1).mean(), 1e-12))
        self.loadings[:, : len(directions)] = torch.from_numpy(directions.T * scale).to(self.loadings)
        self.center[: len(directions)] = torch.from_numpy(mean @ directions.T * scale).to(self.center)

    def forward(self, batch: Batch) -> Tensor:
        """The components, (B, k) float32."""
        if self.width == 0:
            return self.loadings.new_zeros(batch.n_cells, 0)
        scores = gene_scores(self.gene[batch.ids], batch, self.score)
        if PRESENCE in batch.token_fields:
            scores = scores * batch.token_fields[PRESENCE]
        summed = F.embedding_bag(
            batch.ids, self.loadings, batch.boundaries[:-1].long(), mode="sum", per_sample_weights=scores
        )
        return summed - self.center

    def transform(self, cells: Ragged, counts: np.ndarray | None = None) -> np.ndarray:
        """The components of many cells, (n, k) float32, outside of training; ``counts`` (T,) beside their tokens."""
        scores = self._scores(cells, counts)
        return (scores @ self.loadings.cpu().numpy() - self.center.cpu().numpy()).astype(np.float32)

    def _scores(self, cells: Ragged, counts: np.ndarray | None) -> csr_matrix:
        return score_matrix(cells, self.gene.cpu().numpy() > 0, self.score, counts)


def count_scores(counts: Tensor, total: Tensor) -> Tensor:
    """ln(1 + 10,000 · count / total), with the total of the gene's cell; 0 where the total is 0."""
    return (DEPTH * counts / total.clamp(min=1e-12)).log1p()


def rank_scores(rank: Tensor, n: Tensor, score: GeneScore) -> Tensor:
    """The score of the gene at rank r = 0, 1, … of n. The squares of a cell sum to about 7/12 (linear) or 1 (log).

    Returns:
        ``linear``: (1 − r / 2n) / √n; ``log``: √(ln((n + 1) / (r + 1)) / n).
    """
    if score == "linear":
        return (1 - rank / (2 * n)) / n.sqrt()
    return (((n + 1) / (rank + 1)).log() / n).sqrt()


def gene_scores(gene: Tensor, batch: Batch, score: GeneScore = "linear") -> Tensor:
    """The score of each token of packed cells, (T,) float32; 0 for tokens that are no genes.

    Args:
        gene: (T,) 1 where the token is a gene, else 0.
        batch: packed cells.
        score: see :class:`GeneComponents`.

    Raises:
        ValueError: ``score`` is ``counts``, and the batch carries none.
    """
    cell = batch.token_cell
    if score == "counts":
        counts = gene * _require_counts(batch.counts)
        total = counts.new_zeros(batch.n_cells).index_add(0, cell, counts)
        return count_scores(counts, total[cell]).float()
    seen = gene.double().cumsum(0)  # exact far beyond the 2^24 of float32
    before = torch.cat([seen.new_zeros(1), seen])[batch.boundaries.long()]
    n = (before[1:] - before[:-1]).clamp(min=1)[cell]
    rank = seen - 1 - before[:-1][cell]
    return (gene * rank_scores(rank.clamp(min=0), n, score)).float()


def score_matrix(
    cells: Ragged, gene: np.ndarray, score: GeneScore = "linear", counts: np.ndarray | None = None
) -> csr_matrix:
    """The scores of many cells, (B, V) float32 CSR.

    Args:
        cells: token ids.
        gene: (V,) bool, which tokens are genes.
        score: see :class:`GeneComponents`.
        counts: (T,) beside each token; needed where ``score`` is ``counts``.

    Raises:
        ValueError: counts are needed and not given.
    """
    ids = cells.values.astype(np.int64)
    is_gene = gene[ids]
    seen = np.concatenate([[0], np.cumsum(is_gene)])[cells.offsets]
    ids, n = ids[is_gene], np.diff(seen)
    if score == "counts":
        gene_counts = _require_counts(counts)[is_gene].astype(np.float64)
        total = np.diff(np.concatenate([[0.0], gene_counts.cumsum()])[seen])
        values = count_scores(torch.from_numpy(gene_counts), torch.from_numpy(np.repeat(total, n)))
    else:
        rank = np.arange(len(ids)) - np.repeat(seen[:-1], n)
        values = rank_scores(torch.from_numpy(rank).double(), torch.from_numpy(np.repeat(n, n)).double(), score)
    return csr_matrix((values.float().numpy(), ids, seen), shape=(len(cells), len(gene)))


def _require_counts(counts: Counts | None) -> Counts:
    if counts is None:
        raise ValueError(
            "head.counts=true reads counts, but the store keeps ranks only: prepare it again with keep_counts=true, or "
            "set head.counts=false"
        )
    return counts


def principal_directions(scores: csr_matrix, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V,) and principal directions (≤ n, V) of sparse rows, without a dense copy of them."""
    from sklearn.decomposition import PCA

    n = min(n, min(scores.shape) - 1)
    fitted = PCA(n, svd_solver="arpack", random_state=0).fit(scores.astype(np.float64))
    log.info("%d gene components keep %.0f %% of the variance.", n, 100 * fitted.explained_variance_ratio_.sum())
    return fitted.mean_, fitted.components_
