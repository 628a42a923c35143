"""Cell types as points in a learned space: distances instead of scores, so that new types can be seen and added."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.annotation.class_points import KEY, Named, Prototypes
from scfm.head.annotation.discriminant import discriminant_directions
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState
from scfm.head.survey import Survey
from scfm.types import Backbone, Metrics, Spec


class Prototype(Named):
    """Nearest-prototype classification in an open world, see :class:`~scfm.head.annotation.class_points.Prototypes`.

    A cell's position is a projection of its state, which begins at the discriminant directions of the labelled cells
    (:mod:`scfm.head.annotation.discriminant`). A new class is a new row (:meth:`add_class`), without training.

    Args:
        spec: classes, their counts, width, vocabulary.
        label: obs column.
        genes: linear components of the cell's genes beside the embedding; 0 leaves them out.
        counts: the components are of log-normalised counts instead of ranks; the store has to keep counts.
        context: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        dim: width of the learned projection; 0 leaves the state of the cell as it is.
        dropout: before the projection.
        class_weights: weigh the classes inversely to their frequency, within a factor of ten.
        temperature: τ in units of √width.
        pull: η.
        momentum: share of a prototype that a step keeps.
        reject: share of correct calls that calibration may turn into ``unknown``.

    Raises:
        ValueError: no such column, fewer than two classes, no labelled cell, or a number out of its range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        genes: int = 64,
        counts: bool = False,
        context: int | None = None,
        dim: int = 64,
        dropout: float = 0.1,
        class_weights: bool = True,
        temperature: float = 0.5,
        pull: float = 0.01,
        momentum: float = 0.9,
        reject: float = 0.05,
    ) -> None:
        super().__init__()
        self.counts = counts
        if not 0 <= dropout < 1:
            raise ValueError(f"head.dropout={dropout}; expected a share, 0 <= dropout < 1")
        self.labels, self.named_by = (label,), label
        self.state = CellState(spec, genes, context, score="counts" if counts else "log")
        self.dropout = nn.Dropout(dropout)
        self.projector = nn.Linear(self.state.width, dim) if dim else nn.Identity()
        self.prototypes = Prototypes(
            spec,
            label,
            dim or self.state.width,
            class_weights=class_weights,
            temperature=temperature,
            pull=pull,
            momentum=momentum,
            reject=reject,
        )

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        return self.state.view(batch)

    def prepare(self, survey: Survey) -> None:
        """Fit the components of genes on the training cells, and begin at the directions that tell classes apart."""
        self.state.prepare(survey)
        truth = survey.obs[self.named_by]
        known = survey.train & (truth >= 0)
        if isinstance(self.projector, nn.Identity) or len(np.unique(truth[known])) < 2:
            return
        directions = discriminant_directions(self.state.of(survey)[known], truth[known], self.projector.out_features)
        with torch.no_grad():
            self.projector.weight[: len(directions)] = torch.from_numpy(directions)
            self.projector.bias.zero_()

    def __call__(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` and ``n_targets`` of the labelled cells."""
        return super().__call__(backbone, batch)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """See :meth:`__call__`."""
        return self.prototypes(self._position(self.state(backbone, batch)), batch.obs[self.named_by])

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``state`` (B, D), ``position`` (B, D') in the learned space, ``logits`` (B, C), −d/τ; needs no labels."""
        state = self.state(backbone, batch)
        z = self._position(state)
        return {"state": state, "position": z, "logits": self.prototypes.logits(z)}

    def write(self, outputs: Arrays) -> Written:
        """The calls, and where cells lie among the prototypes."""
        uns = {"projection": "genes alone: new cells take one forward pass", "classes": self.prototypes.names}
        return super().write(outputs) | Written(obsm={KEY: outputs["position"]}, uns=uns)

    def _position(self, state: Tensor) -> Tensor:
        return self.projector(self.dropout(state)).float()
