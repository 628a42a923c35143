"""The base class of pretraining objectives."""

from __future__ import annotations

from torch import Tensor

from scfm.batch import Batch
from scfm.task import Task
from scfm.types import Backbone, Needs


class Objective(Task, hooks=("requirements", "sample", "predicted_share")):
    """A pretraining objective. A subclass implements ``forward`` and the hooks that it needs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Constant(Objective):
        ...     def __init__(self, spec):
        ...         super().__init__()
        ...         self.value = nn.Parameter(torch.zeros(()))
        ...     def forward(self, backbone, batch):
        ...         return {"loss": (self.value - 1) ** 2}
        >>> sorted(Constant.hooks)
        []
    """

    def requirements(self) -> Needs:
        """What the objective needs of the data."""
        return Needs()

    def sample(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Some predictions of a batch, for a logger that shows them; see :meth:`scfm.objective.score.Score.sample`."""
        return {}

    def predicted_share(self) -> float:
        """Share of the tokens at which the vocabulary is scored, for estimates of the work of a training step."""
        return 1.0
