"""The base class of fine-tuning heads."""

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

#: Predictions of a head for the cells of a batch, (B, ...) by name; ``state`` (B, D') is what it reads of them.
Outputs: TypeAlias = dict[str, Tensor]
#: The same of many cells, (n, ...) by name, on the host.
Arrays: TypeAlias = Mapping[str, np.ndarray]
#: Among the arrays that :meth:`Head.refit` is given: (n,) bool, cells that the backbone was fine-tuned on.
TRAINED = "trained"
#: Prefix of the obs columns of a file among the arrays that :meth:`Head.write` is given.
OBS = "obs/"


@dataclass(frozen=True)
class Written:
    """What a head adds to a file of embedded cells.

    Attributes:
        obs: columns (n,) by name.
        obsm: arrays (n, d) by name.
        uns: plain values that describe the columns and arrays.
    """

    obs: dict[str, np.ndarray] = field(default_factory=dict)
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Written) -> Written:
        return Written(self.obs | other.obs, self.obsm | other.obsm, self.uns | other.uns)


class Head(
    Task,
    hooks=("requirements", "view", "prepare", "predict", "write", "summarize", "update", "refit", "calibrate"),
):
    """A fine-tuning head. A subclass implements ``forward`` and the hooks that it needs.

    The framework calls the hooks in this order: ``requirements`` when the data are planned, ``prepare`` before the
    first step, ``update`` when an epoch begins, ``predict`` and ``summarize`` in validation, ``refit`` and
    ``calibrate`` after training, ``predict`` and ``write`` when new cells are embedded.

    Attributes:
        metric: what to watch in validation, a name in ``forward``'s metrics or ``summarize``'s.
        auto_components: what ``variable_components: auto`` means where the store keeps counts.
        labels, learned, counts, sampling, fields: what :meth:`requirements` returns; a subclass sets them.
        file_columns: obs columns of a file that :meth:`write` reads, where the file has them: as ``obs/NAME`` among its
            arrays, (n,) text, "" where missing.
        reads: second modalities that :meth:`predict` reads where new cells have them; their features are
            ``spec.fields``.

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
    auto_components: ClassVar[int] = 50
    labels: tuple[str, ...] = ()
    learned: tuple[str, ...] | None = None
    counts: bool = False
    sampling: Sampling | None = None
    fields: tuple[str, ...] = ()
    file_columns: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def requirements(self) -> Needs:
        """What the head needs of the data; called before the survey, and after it for the ``sampling``."""
        return Needs(self.labels, self.learned, self.counts, self.sampling, self.fields)

    def view(self, batch: Batch) -> Batch:
        """The part of a batch that the backbone reads."""
        return batch

    def prepare(self, survey: Survey) -> None:
        """Read all cells before the first step; fit on the training cells alone."""

    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """Predictions for each cell; they need no labels and do not depend on other cells of the batch."""
        return {}

    def write(self, outputs: Arrays) -> Written:
        """Columns and arrays for a file of cells, from the results of :meth:`predict` for all of them."""
        return Written()

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Metrics of a whole epoch.

        Args:
            outputs: results of :meth:`predict` for all its cells.
            targets: their obs columns by name; class codes are -1 where missing.
        """
        return {}

    def update(self, outputs: Arrays, targets: Arrays) -> None:
        """Learn from all training cells at once, when an epoch begins; arguments as for :meth:`summarize`."""

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Fit once more on whole sets after training; arguments as for :meth:`summarize`.

        At the first time, ``outputs`` also holds ``trained`` (n,) bool: the cells that training saw.
        """

    def calibrate(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Fit temperatures, thresholds and the like on cells not used before; arguments as for :meth:`summarize`.

        Returns:
            Metrics of the calibration.
        """
        return {}

    def class_names(self) -> dict[str, list[str]]:
        """Names of classes by obs column, where the head has changed them since the store named them."""
        return {}
