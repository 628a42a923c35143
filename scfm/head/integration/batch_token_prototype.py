"""Integration by a learned vector of the experimental batch, and cell types named in the integrated space."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
import torch

from scfm.batch import Batch
from scfm.head.annotation.class_prototypes import PrototypeHead, Prototypes
from scfm.head.base import Outputs
from scfm.head.integration.batch_token import BatchToken, BatchTokenOptions
from scfm.head.ranges import check_positive
from scfm.head.survey import Survey
from scfm.types import Backbone, Metrics, Spec


class BatchTokenPrototype(PrototypeHead, BatchToken):
    """Batch vectors and class prototypes together (scPoli: De Donno et al., 2023).

    L = L of :class:`~scfm.head.integration.batch_token.BatchToken` + ``weight`` · L of
    :class:`~scfm.head.annotation.class_prototypes.Prototypes`, whose positions are the integrated space. The unit of τ
    is the root mean square distance of cells to the center of their class where the space begins.

    Args:
        spec: vocabulary, classes and widths of the run.
        label: obs column of the types; cells without one count in the contrast alone.
        weight: weight of the prototypes' loss.
        pull: η of the prototypes.
        reject: share of correct calls that calibration may turn into ``unknown``.
        **options: see :class:`~scfm.head.integration.batch_token.BatchToken`; ``temperature`` is that of the contrast.

    Raises:
        ValueError: a single batch, an unknown column, fewer than two classes, or a number out of its range.
    """

    metric: ClassVar[str] = "macro_f1"
    position_key: ClassVar[str] = "integrated"

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        weight: float = 1.0,
        pull: float = 0.01,
        reject: float = 0.05,
        **options: Unpack[BatchTokenOptions],
    ) -> None:
        super().__init__(spec, **options)
        check_positive(weight=weight)
        self.labels, self.learned, self.label_column = (*self.labels, label), (label,), label
        self.weight = weight
        self.prototypes = Prototypes(spec, label, self.width, pull=pull, reject=reject)

    def prepare(self, survey: Survey) -> None:
        """Fit the components, and scale τ by the spread of the classes where the space begins."""
        super().prepare(survey)
        if self.state.components.width:
            space = self.start_position(torch.from_numpy(self.state.search_space(survey))).numpy()
            codes = np.where(survey.train, survey.obs[self.label_column], -1)
            self.prototypes.sharpness /= class_spread(space, codes) / self.width**0.5

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` of the contrast, ``accuracy_of_types`` and ``n_targets``, the labeled cells."""
        metrics, space = self.compute_contrast(backbone, batch)
        of_types = self.prototypes(self.finalize(space), batch.obs[self.label_column])
        loss = metrics["loss"] + self.weight * of_types["loss"]
        return {**metrics, "loss": loss, "accuracy_of_types": of_types["accuracy"], "n_targets": of_types["n_targets"]}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``integrated`` (B, d), with the null vector, and ``logits`` (B, C), −d/τ; needs no labels."""
        space = self.encode(backbone, batch)
        return {"integrated": space, "logits": self.prototypes.logits(space)}


def class_spread(space: np.ndarray, codes: np.ndarray) -> float:
    """Root mean square distance of cells (n, d) to the mean of their class (n,), -1 where missing."""
    classes = [space[codes == code] for code in np.unique(codes[codes >= 0])]
    squares = np.concatenate([((cells - cells.mean(axis=0)) ** 2).sum(axis=1) for cells in classes])
    return float(np.sqrt(max(squares.mean(), 1e-12)))
