"""The base class of everything a backbone is fine-tuned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import Tensor

from scfm.batch import Batch
from scfm.head.survey import Survey
from scfm.task import Task
from scfm.types import Backbone, Needs, Sampling

#: What a head predicts of the cells of a batch, (B, ...) by name; ``state`` (B, D') is what it reads of them.
Outputs: TypeAlias = dict[str, Tensor]
#: The same of many cells, (n, ...) by name, on the host.
Arrays: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """What a head adds to a file of embedded cells.

    Attributes:
        obs: columns (n,) by name.
        obsm: arrays (n, d) by name.
        uns: plain values that say how to read them.
    """

    obs: dict[str, np.ndarray] = field(default_factory=dict)
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Written) -> Written:
        return Written(self.obs | other.obs, self.obsm | other.obsm, self.uns | other.uns)


class Head(
    Task,
    hooks=("requirements", "view", "prepare", "predict", "write", "summarise", "update", "refit", "calibrate"),
):
    """A fine-tuning head. A subclass implements ``forward`` and whichever hooks it likes.

    The framework calls the hooks in this order: ``requirements`` when the data are planned, ``prepare`` before the
    first step, ``update`` when an epoch begins, ``predict`` and ``summarise`` in validation, ``refit`` and
    ``calibrate`` after training, ``predict`` and ``write`` when new cells are embedded.

    Attributes:
        metric: what to watch in validation, a name in ``forward``'s metrics or ``summarise``'s.
        labels, learned, counts, sampling: what :meth:`requirements` says; a subclass sets them.

    Example:
        >>> class Depth(Head):
        ...     def predict(self, backbone, batch):
        ...         return {"depth": batch.lengths.float()}
        ...     def write(self, outputs):
        ...         return Written(obs={"scfm_depth": outputs["depth"]})
        >>> sorted(Depth.hooks)
        ['predict', 'write']
        >>> class Misspelt(Head):
        ...     def predicts(self, backbone, batch):
        ...         return {}
        Traceback (most recent call last):
        ...
        TypeError: scfm.head.base.Misspelt.predicts looks like the hook 'predict' but is not called; rename it
    """

    metric: ClassVar[str] = "loss"
    labels: tuple[str, ...] = ()
    learned: tuple[str, ...] | None = None
    counts: bool = False
    sampling: Sampling | None = None

    def requirements(self) -> Needs:
        """What it needs of the data; asked for before the survey, and its ``sampling`` again after it."""
        return Needs(self.labels, self.learned, self.counts, self.sampling)

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        return batch

    def prepare(self, survey: Survey) -> None:
        """Look at all cells before the first step; fit on the training cells alone."""

    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """What the head says of each cell, whatever other cells are in the batch; needs no labels."""
        return {}

    def write(self, outputs: Arrays) -> Written:
        """Columns and arrays for a file of cells, from what :meth:`predict` gave for all of them."""
        return Written()

    def summarise(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Metrics of a whole epoch.

        Args:
            outputs: what :meth:`predict` gave for all its cells.
            targets: their obs columns by name; class codes are -1 where missing.
        """
        return {}

    def update(self, outputs: Arrays, targets: Arrays) -> None:
        """Learn from all training cells at once, when an epoch begins; arguments as for :meth:`summarise`."""

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Learn from whole sets after training; arguments as for :meth:`summarise`."""

    def calibrate(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Fit what only cells that nothing has looked at can tell; arguments as for :meth:`summarise`.

        Returns:
            Metrics of the calibration.
        """
        return {}

    def class_names(self) -> dict[str, list[str]]:
        """Names of classes by obs column, where the head has changed them since the store named them."""
        return {}
