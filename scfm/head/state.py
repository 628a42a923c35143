"""What a head reads of a cell: the backbone's embedding and, beside it, linear components of its genes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scfm.head.bag import GeneBag
from scfm.head.pool import embed
from scfm.head.survey import Survey
from scfm.types import Backbone, Batch, Spec


class CellState(nn.Module):
    """Normalised embedding of the backbone, then ``genes`` components of :class:`~scfm.head.bag.GeneBag`.

    No normalisation looks at other cells, so that what a cell becomes never depends on its company.

    Args:
        spec: vocabulary and width D.
        genes: number of components k.

    Attributes:
        deep: D.
        width: D + k.

    Raises:
        ValueError: a negative number of components.
    """

    def __init__(self, spec: Spec, genes: int = 0) -> None:
        super().__init__()
        if genes < 0:
            raise ValueError(f"head.genes={genes}; expected a number of components, 0 for the backbone alone")
        self.vocab, self.deep, self.width = spec.vocab, spec.width, spec.width + genes
        self.norm = nn.LayerNorm(spec.width)
        self.bag = GeneBag(spec.vocab, genes)

    def prepare(self, survey: Survey) -> None:
        """Fit the components on the training cells; see :meth:`GeneBag.prepare`."""
        self.bag.prepare(survey)

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """(B, D + k)."""
        deep = self.norm(embed(backbone, batch, self.vocab).to(self.norm.weight.dtype))
        return torch.cat([deep, self.bag(batch).to(deep.dtype)], dim=1) if self.bag.size else deep

    @torch.no_grad()
    def of(self, survey: Survey) -> np.ndarray:
        """The same of the surveyed cells, (n, D + k) float32, before any training."""
        deep = self.norm.cpu()(torch.from_numpy(survey.embedding)).numpy()
        if self.bag.size == 0:
            return deep
        assert survey.tokens is not None, "prepare comes first"
        return np.column_stack([deep, self.bag.of(survey.tokens(np.arange(len(survey.rows))))])
