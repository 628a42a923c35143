"""Masked gene modeling, and beside it a contrast between two halves of the counts of each cell."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.model.contrast import nt_xent
from scfm.model.pooling import read_cells, shorten
from scfm.objective.halves import HalvesMLM
from scfm.types import Backbone, Metrics, Needs, Sampling, Spec


class MLMContrast(HalvesMLM):
    """MLM on one half of a cell's counts, and InfoNCE between the embeddings of both halves (Chen et al. 2020).

    The halves of a cell (:class:`~scfm.objective.halves.HalvesMLM`) attract, those of other cells of the micro-batch
    repel. Micro-batches are of one file each, so that telling files apart is of no use. The embedding that the loss
    reads is the one that ``scfm-embed`` writes (``embedding_layer`` and ``embedding_pool``).

    Args:
        spec: see :class:`~scfm.objective.halves.HalvesMLM`.
        contrast: weight of the contrast; the MLM loss has weight 1.
        temperature: of the contrast.
        balance: files are drawn in proportion to their number of cells to this power: 1 as they are, 0 equally often.
        smallest, mask_fraction, mask_share, random_share: see :class:`~scfm.objective.halves.HalvesMLM`.

    Raises:
        ValueError: numbers out of range, and what HalvesMLM refuses.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        contrast: float = 1.0,
        temperature: float = 0.1,
        smallest: float = 0.2,
        balance: float = 0.5,
        mask_fraction: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
    ) -> None:
        shares = {"mask_fraction": mask_fraction, "mask_share": mask_share, "random_share": random_share}
        super().__init__(spec, smallest=smallest, **shares)
        if contrast < 0 or temperature <= 0:
            raise ValueError(
                f"objective.contrast={contrast}, objective.temperature={temperature}; expected a weight of 0 or more "
                "and a temperature above 0"
            )
        if not 0 <= balance <= 1:
            raise ValueError(f"objective.balance={balance}; expected a power from 0 to 1")
        self.contrast, self.temperature, self.balance, self.files = contrast, temperature, balance, spec.file_cells

    def requirements(self) -> Needs:
        """Counts, and micro-batches of one file each."""
        if self.files is None or len(self.files) < 2:
            return Needs(counts=True)
        coverage = self.files.astype(np.float64) ** self.balance
        return Needs(counts=True, sampling=Sampling(by="file", micro_batches="coverage", coverage=coverage))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """Loss of one batch; in evaluation that of MLM alone, on whole cells.

        Returns:
            What MLM returns; in training also ``mlm``, ``contrast`` and ``paired``, the share of halves whose
            counterpart is nearer than all other cells.
        """
        if not self.training:
            return super().forward(backbone, batch)
        one, two = self.divide(batch)
        one, two = shorten(backbone, one), shorten(backbone, two)
        masked, picked, targets = self.mask(one)
        hidden = backbone(masked)
        found = self.compare(backbone, hidden[picked], targets)
        first = self._embed(backbone, masked, hidden)
        second = self._embed(backbone, two, backbone(two))
        middle = torch.cat([first, second]).mean(0)
        same = torch.zeros(batch.n_cells, dtype=torch.int64, device=batch.ids.device)
        first, second = F.normalize(first - middle, dim=1), F.normalize(second - middle, dim=1)
        loss, paired = nt_xent(first, second, same, temperature=self.temperature)
        return found | {
            "loss": found["loss"] + self.contrast * loss,
            "mlm": found["loss"].detach(),
            "contrast": loss.detach(),
            "paired": paired,
        }

    def _embed(self, backbone: Backbone, batch: Batch, last: torch.Tensor) -> torch.Tensor:
        layer = backbone.embedding_layer
        hidden = last if layer in (-1, backbone.n_layers) else backbone.hidden(batch, layer)
        return read_cells(backbone, hidden, batch, self.vocab).float()
