"""The table of token frequencies of clusters of cells: what a pretrained model must beat to have learned cells."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.special import softmax
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.objective.score import IGNORE

#: Tokens that a cluster borrows from the frequencies of all cells, so that no token is impossible.
SMOOTHING = 20.0
#: Iterations of the fit; the likelihood hardly moves after them.
ITERATIONS = 10


class ClusterTable(nn.Module):
    """Predicts a gene by the clusters that the visible genes of its cell point to.

    With p_k(g) the frequency of gene g in cluster k, q_k the posterior of the cluster given the visible genes v, taken
    as independent: p(g | v) = sum_k q_k p_k(g) / (1 - sum_k q_k p_k(v)) for a gene that is not visible: one that stands
    in the cell already is no candidate.

    Args:
        possible: (V,) bool, the tokens that can be a target.
        counts: (K, V) of :func:`fit_clusters`.
    """

    def __init__(self, possible: np.ndarray, counts: np.ndarray) -> None:
        super().__init__()
        own = np.where(possible, counts, 0.0)
        everywhere = np.where(possible, counts.sum(0) + 1, 0.0)
        smooth = own + SMOOTHING * everywhere / everywhere.sum()
        self.shares: Tensor
        self.log_prior: Tensor
        self.register_buffer("shares", _float(smooth / smooth.sum(1, keepdims=True)).T.contiguous(), persistent=False)
        self.register_buffer("log_prior", _float(np.log(smooth.sum(1) / smooth.sum())), persistent=False)

    def forward(self, batch: Batch, visible: Tensor, places: Tensor, targets: Tensor, *, prefix: bool) -> Tensor:
        """Summed cross-entropy of the targets, a float32 scalar.

        Args:
            batch: packed cells.
            visible: (T,) bool, the tokens that may be looked at.
            places: (N,) the place in the row of the cell of each target.
            targets: (N,) ids, :data:`~scfm.objective.score.IGNORE` where there is none.
            prefix: whether a target at place t sees the visible tokens up to t (AR) or all of its cell (MLM).
        """
        seen = (visible & (self.shares[batch.ids, 0] > 0)).unsqueeze(1)
        shares = self.shares[batch.ids].where(seen, 0.0)
        found = sum_visible(
            torch.cat([self.shares[batch.ids].log().where(seen, 0.0), shares], 1), batch, places, prefix=prefix
        )
        logs, visible_shares = found.chunk(2, dim=1)
        posterior = torch.softmax(logs + self.log_prior, dim=1)
        real = targets != IGNORE
        own = (posterior * self.shares[targets.clamp(min=0)]).sum(1)
        rest = (1 - (posterior * visible_shares).sum(1)).clamp(min=1e-6)
        return -(own / rest).clamp(min=1e-12, max=1.0).log().where(real, 0.0).sum()


def sum_visible(evidence: Tensor, batch: Batch, places: Tensor, *, prefix: bool) -> Tensor:
    """What the tokens of its cell say to each target, (N, K) float32.

    Args:
        evidence: (T, K) of each token of the row, 0 where it is not visible.
        batch: packed cells.
        places: (N,) the place in the row of the cell of each target.
        prefix: whether a target at place t hears the tokens up to t (AR) or all of its cell (MLM).
    """
    cell = batch.token_cell
    if not prefix:
        total = evidence.new_zeros(batch.n_cells, evidence.shape[1]).index_add(0, cell, evidence)
        return total[cell[places]]
    sums = evidence.double().cumsum(0)
    before = torch.cat([torch.zeros_like(sums[:1]), sums])[batch.boundaries[:-1].long()]
    return (sums[places] - before[cell[places]]).float()


def fit_clusters(cells: csr_matrix, n_clusters: int, seed: int) -> np.ndarray:
    """A mixture of multinomials by expectation maximization (McLachlan & Peel 2000, ch. 2).

    Args:
        cells: n x V, 1 where the cell holds the token.
        n_clusters: K, at most n.
        seed: of the cells that the clusters begin with.

    Returns:
        (K, V) float64, expected tokens of the cells of each cluster.
    """
    everywhere = np.asarray(cells.sum(0), dtype=np.float64).ravel() + 1
    everywhere /= everywhere.sum()
    first = np.random.default_rng(seed).choice(cells.shape[0], n_clusters, replace=False)
    counts = cells[np.sort(first)].toarray().astype(np.float64)
    for _ in range(ITERATIONS):
        smooth = counts + SMOOTHING * everywhere
        logs = np.log(smooth / smooth.sum(1, keepdims=True))
        prior = np.log(smooth.sum(1) / smooth.sum())
        posterior = softmax(cells @ logs.T + prior, axis=1)
        counts = np.asarray(posterior.T @ cells, dtype=np.float64)
    return counts


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
