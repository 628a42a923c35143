"""Heads that read a distribution over ordered classes from a cell's state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from scfm.head.base import TRAINED, Arrays
from scfm.head.block_regression import BlockRegression
from scfm.head.logistic import BALANCED
from scfm.head.survey import Survey
from scfm.head.trajectory.base import Trajectory
from scfm.types import Spec


class ClassTrajectory(Trajectory):
    """One linear layer, which begins and ends at a logistic regression.

    It begins at a regression on the pretrained embedding and the gene components, and is fitted once more after
    training, on validation cells too where there are test cells. Each class has a direction of its own, because a
    single direction with thresholds on it (McCullagh 1980) cannot describe a curved process. The layer of the fates is
    fitted likewise.
    """

    regressions: Sequence[BlockRegression]

    def __init__(self, spec: Spec, **options: Any) -> None:
        super().__init__(spec, **options)
        n = 1 + (self.branches is not None)
        self.regressions = nn.ModuleList(  # type: ignore[assignment]
            BlockRegression(self.state.blocks, BALANCED) for _ in range(n)
        )

    @abstractmethod
    def codes(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Places of cells among the ordered classes, (n,), -1 where unknown, from the columns of obs."""

    def prepare(self, survey: Survey) -> None:
        """Fit the components and the logistic regressions to begin with, on the training cells."""
        super().prepare(survey)
        targets = {name: values[survey.train] for name, values in survey.obs.items()}
        self._regress(self.state.from_survey(survey)[survey.train], targets, groups=survey.train_groups)

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Set the layers to logistic regressions of stage and fate.

        Args:
            outputs: results of :meth:`predict` for the cells to learn from; ``state`` is read.
            targets: their columns of obs.
        """
        self._regress(outputs["state"], targets, trained=outputs.get(TRAINED))

    def _regress(
        self,
        states: np.ndarray,
        targets: Arrays,
        *,
        groups: np.ndarray | None = None,
        trained: np.ndarray | None = None,
    ) -> None:
        learned = [(self.line, self.codes(targets))]
        if self.branches is not None:
            learned.append((self.branches, targets[str(self.fate)]))
        for (network, codes), regression in zip(learned, self.regressions, strict=True):
            layer = network[-1]
            assert isinstance(layer, nn.Linear)
            regression.regress(layer, states, codes, groups=groups, trained=trained)
