"""Heads that read a distribution over ordered classes from a cell's state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from torch import nn

from scfm.head.base import Arrays
from scfm.head.logistic import regress
from scfm.head.survey import Survey
from scfm.head.trajectory.base import Trajectory


class ClassTrajectory(Trajectory):
    """One linear layer, which begins and ends at a logistic regression.

    It begins at a regression on the pretrained embedding and the gene components, and is fitted once more after
    training, on validation cells too where there are test cells. Each class has a direction of its own, because a
    single direction with thresholds on it (McCullagh 1980) cannot describe a curved process. The layer of the fates is
    fitted likewise.
    """

    @abstractmethod
    def codes(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Places of cells among the ordered classes, (n,), -1 where unknown, from the columns of obs."""

    def prepare(self, survey: Survey) -> None:
        """Fit the gene components and the logistic regressions to begin with, on the training cells."""
        super().prepare(survey)
        targets = {name: values[survey.train] for name, values in survey.obs.items()}
        self.refit({"state": self.state.from_survey(survey)[survey.train]}, targets)

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Set the layers to logistic regressions of stage and fate.

        Args:
            outputs: results of :meth:`predict` for the cells to learn from; ``state`` is read.
            targets: their columns of obs.
        """
        learned = [(self.line, self.codes(targets))]
        if self.branches is not None:
            learned.append((self.branches, targets[str(self.fate)]))
        for network, codes in learned:
            layer = network[-1]
            assert isinstance(layer, nn.Linear)
            regress(layer, outputs["state"], codes)
