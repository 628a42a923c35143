"""Masked gene modeling on one half of a cell's counts, beside which the other half is at hand."""

from __future__ import annotations

import numpy as np
import torch

from scfm.batch import Batch
from scfm.model.ranking import divide_counts
from scfm.objective.mlm import MLM
from scfm.types import Needs, Spec


class HalvesMLM(MLM):
    """What the objectives share that measure each cell twice.

    Every count goes to the first half with a probability that is drawn for each cell, else to the second: two
    measurements of the same cell without a shared count (data thinning, Neufeld et al. 2024), ranked again.

    Args:
        spec: see :class:`~scfm.objective.mlm.MLM`; and ``scale``, by which halves are ranked.
        smallest: smallest share of the counts that a half gets in the mean; the share is uniform from it to its
            complement.
        mask_fraction, mask_share, random_share: see :class:`~scfm.objective.mlm.MLM`.

    Raises:
        ValueError: ``smallest`` out of range, and what MLM refuses.
    """

    def __init__(
        self, spec: Spec, *, smallest: float, mask_fraction: float, mask_share: float, random_share: float
    ) -> None:
        super().__init__(spec, mask_fraction=mask_fraction, mask_share=mask_share, random_share=random_share)
        if not 0 < smallest <= 0.5:
            raise ValueError(f"objective.smallest={smallest}; expected a share above 0, at most 0.5")
        self.smallest, self.vocab = smallest, spec.vocab
        scale = np.ones(len(spec.vocab)) if spec.scale is None else spec.scale
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.from_numpy(np.asarray(scale, dtype=np.float64)), persistent=False)

    def requirements(self) -> Needs:
        """Counts."""
        return Needs(counts=True)

    def divide(self, batch: Batch) -> tuple[Batch, Batch]:
        """Both halves of a batch; which count goes where depends on ``batch.seed`` alone."""
        generator = torch.Generator(batch.ids.device).manual_seed(batch.seed)
        return divide_counts(batch, self.vocab, self.scale, self.smallest, generator)
