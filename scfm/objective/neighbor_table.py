"""The mean of the nearest training cells: what a pretrained model must beat to know more than a look-up."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.objective.cluster_table import sum_visible
from scfm.objective.score import IGNORE

#: Training cells that are looked through, and those of them that are averaged.
REFERENCE, NEAREST = 500, 15
#: Weights of the frequencies of all cells beside the mean of the nearest, of which the best one is taken.
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
#: Cells that choose the weight, and the share of their genes that are hidden for it.
CHOOSING, HIDDEN = 100, 0.15


class NeighborTable(nn.Module):
    """Predicts a gene by the training cells that share most with the visible genes of its cell.

    Cells are compared by the cosine of the genes that they hold, each gene weighted by ln(n / its cells). The
    frequencies p of the :data:`NEAREST` cells, each of sum 1, are averaged and mixed with those of all cells:
    p(g | v) = p(g) / (1 - p(v)) for a gene that is not visible, as in
    :class:`~scfm.objective.cluster_table.ClusterTable`. The weight of the mixture is the one that predicts hidden genes
    of the reference cells best, each from the others.

    Args:
        possible: (V,) bool, the tokens that can be a target.
        cells: n x V, not zero where a training cell holds the token; the first :data:`REFERENCE` are kept.
        counts: (V,) how often each token occurs in all training cells.
    """

    def __init__(self, possible: np.ndarray, cells: csr_matrix, counts: np.ndarray) -> None:
        super().__init__()
        holds = (cells[:REFERENCE].toarray() > 0) & possible
        holds = holds[holds.any(1)]
        n_cells = holds.sum(0)
        rarity = np.log(max(len(holds), 1) / np.maximum(n_cells, 1)) * possible
        shares = np.where(possible, counts + 1.0, 0.0)
        self.holds: Tensor
        self.rarity: Tensor
        self.shares: Tensor
        self.register_buffer("holds", torch.from_numpy(holds.T.copy()), persistent=False)  # (V, K)
        self.register_buffer("rarity", torch.from_numpy(rarity.astype(np.float32)), persistent=False)
        self.register_buffer("shares", torch.from_numpy((shares / shares.sum()).astype(np.float32)), persistent=False)
        with torch.device("cpu"):  # other ranks of a divided model are built without values
            self.weight = self._choose_weight(np.random.default_rng(0)) if len(holds) > 1 else 1.0

    def forward(self, batch: Batch, visible: Tensor, places: Tensor, targets: Tensor, *, prefix: bool) -> Tensor:
        """Summed cross-entropy of the targets, see :meth:`scfm.objective.cluster_table.ClusterTable.forward`."""
        seen = (visible & (self.shares[batch.ids] > 0)).unsqueeze(1)
        holds = self.holds[batch.ids].float().where(seen, 0.0)
        weighted = holds * self.rarity[batch.ids].square().unsqueeze(1)
        shares = self.shares[batch.ids].unsqueeze(1).where(seen, 0.0)
        found = sum_visible(torch.cat([weighted, holds, shares], 1), batch, places, prefix=prefix)
        agreement, overlap, rest = found.split([holds.shape[1], holds.shape[1], 1], dim=1)
        real = targets != IGNORE
        loss = self._losses(agreement, overlap, rest[:, 0], targets.clamp(min=0), torch.tensor([self.weight]))[:, 0]
        return loss.where(real, 0.0).sum()

    def _losses(self, agreement: Tensor, overlap: Tensor, seen: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """-ln p of each target under each weight of the frequencies of all cells, (N, W).

        Args:
            agreement: (N, K) summed squared rarities of the visible genes that a reference cell holds, too.
            overlap: (N, K) the number of them.
            seen: (N,) the frequency in all cells of the visible genes.
            targets: (N,) ids.
            weights: (W,).
        """
        weights = weights.to(seen.device)
        if not self.holds.shape[1]:
            return -(self.shares[targets] / (1 - seen).clamp(min=1e-6)).log().unsqueeze(1).expand(-1, len(weights))
        lengths = self.holds.sum(0).float()
        norms = (self.holds * self.rarity.square().unsqueeze(1)).sum(0).sqrt().clamp(min=1e-6)
        nearest = (agreement / norms).argsort(dim=1, descending=True, stable=True)[:, :NEAREST]  # ties: the first
        own = (self.holds[targets].gather(1, nearest) / lengths[nearest]).mean(1, keepdim=True)
        visible = (overlap.gather(1, nearest) / lengths[nearest]).mean(1, keepdim=True)
        shares = torch.lerp(own, self.shares[targets].unsqueeze(1), weights)
        rest = 1 - torch.lerp(visible, seen.unsqueeze(1), weights)
        return -(shares / rest.clamp(min=1e-6)).clamp(min=1e-12, max=1.0).log()

    def _choose_weight(self, rng: np.random.Generator) -> float:
        """The weight by which hidden genes of some reference cells are predicted best from the other ones."""
        weights, total = torch.tensor(WEIGHTS), torch.zeros(len(WEIGHTS))
        rarity = self.rarity.square()
        for cell in rng.permutation(self.holds.shape[1])[:CHOOSING].tolist():
            genes = rng.permutation(torch.nonzero(self.holds[:, cell])[:, 0].numpy())
            hidden, known = np.split(genes, [max(1, round(HIDDEN * len(genes)))])
            holds = self.holds[known].float()
            agreement = (holds * rarity[known].unsqueeze(1)).sum(0)
            agreement[cell] = -1.0
            repeat = len(hidden), -1
            total += self._losses(
                agreement.expand(repeat),
                holds.sum(0).expand(repeat),
                self.shares[known].sum().expand(len(hidden)),
                torch.from_numpy(hidden),
                weights,
            ).sum(0)
        return WEIGHTS[int(total.argmin())]
