"""Cell types as points in a learned space: distances instead of scores, so that types can be added later."""

from __future__ import annotations

import logging
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.annotation.class_prototypes import KEY, PrototypeHead, PrototypeOptions, Prototypes
from scfm.head.annotation.discriminant import choose_scales, weighed_directions
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.ranges import check_proper_shares
from scfm.head.survey import Survey
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)


class Prototype(PrototypeHead, StateHead):
    """Nearest-prototype classification, see :class:`~scfm.head.annotation.class_prototypes.Prototypes`.

    A cell's position is a projection of its state, which begins at the discriminant directions of the labeled cells
    (:mod:`scfm.head.annotation.discriminant`). A new class is a new row (:meth:`add_class`), without training.

    Args:
        spec: classes, their counts, width, vocabulary.
        label: obs column.
        gene_components: linear components of the cell's genes beside the embedding; 0 for none.
        counts: the components are of log-normalized counts instead of ranks; the store has to keep counts.
        variable_components: principal components of 2,000 variable genes beside these, from counts; 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        width: width of the learned projection; 0 for none: positions are the states of the cells.
        dropout: before the projection.
        **options: see :class:`~scfm.head.annotation.class_prototypes.Prototypes`.

    Raises:
        ValueError: no such column, fewer than two classes, no labeled cell, or a number out of its range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        gene_components: int = 64,
        counts: bool = False,
        variable_components: Components = 0,
        max_tokens: int | None = None,
        width: int = 64,
        dropout: float = 0.1,
        **options: Unpack[PrototypeOptions],
    ) -> None:
        super().__init__()
        check_proper_shares(dropout=dropout)
        self.labels, self.label_column = (label,), label
        self.state = CellState(
            spec,
            gene_components,
            max_tokens,
            score="counts" if counts else "log",
            variable_components=variable_components,
        )
        self.counts = self.state.counts
        self.dropout = nn.Dropout(dropout)
        self.projector = nn.Linear(self.state.width, width) if width else nn.Identity()
        self.prototypes = Prototypes(spec, label, width or self.state.width, **options)

    def prepare(self, survey: Survey) -> None:
        """Fit the gene components on the training cells, and begin at the directions that separate classes."""
        super().prepare(survey)
        truth = survey.obs[self.label_column]
        known = survey.train & (truth >= 0)
        if isinstance(self.projector, nn.Identity) or len(np.unique(truth[known])) < 2:
            return
        states, blocks = self.state.from_survey(survey)[known], self.state.blocks
        groups = None if survey.groups is None else survey.groups[known]
        scales = choose_scales(states, truth[known], blocks, groups)
        if len(blocks) > 1 and scales[0] == 0:
            log.info("The prototypes begin without the backbone, which adds nothing to the components here.")
        directions = weighed_directions(states, truth[known], self.projector.out_features, blocks, scales)
        with torch.no_grad():
            self.projector.weight[: len(directions)] = torch.from_numpy(directions)
            self.projector.bias.zero_()

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` and ``n_targets`` of the labeled cells."""
        return self.prototypes(self._position(self.state(backbone, batch)), batch.obs[self.label_column])

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``state`` (B, D), ``position`` (B, D') in the learned space, ``logits`` (B, C), −d/τ; needs no labels."""
        state = self.state(backbone, batch)
        z = self._position(state)
        return {"state": state, "position": z, "logits": self.prototypes.logits(z)}

    def logits(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Scores of the one column, (B, C) float32; they carry gradients."""
        return [self.prototypes.logits(self._position(self.state(backbone, batch)))]

    def write(self, outputs: Arrays) -> Written:
        """The predicted names, and the positions of cells."""
        uns = {"projection": "genes alone: new cells take one forward pass", "classes": self.prototypes.names}
        return super().write(outputs) | Written(obsm={KEY: outputs["position"]}, uns=uns)

    def _position(self, state: Tensor) -> Tensor:
        return self.projector(self.dropout(state)).float()
