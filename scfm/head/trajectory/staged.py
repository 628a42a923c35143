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


class Staged(Trajectory):
    """One linear layer, which begins and ends at a logistic regression.

    It begins at that of the pretrained embedding and the gene components, and ends at that of what they have become,
    validation cells included where there are test cells. Each class has a direction of its own: development bends, and
    one direction with thresholds on it (McCullagh 1980) cannot follow. Likewise the layer of the fates.
    """

    @abstractmethod
    def codes(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n,) places of cells among the ordered classes, -1 where unknown, from the columns of obs."""

    def prepare(self, survey: Survey) -> None:
        """Fit the components of genes on the training cells, and begin."""
        super().prepare(survey)
        targets = {name: values[survey.train] for name, values in survey.obs.items()}
        self.refit({"state": self.state.of(survey)[survey.train]}, targets)

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Make the layers the logistic regressions of stage and fate.

        Args:
            outputs: ``state``, see :meth:`predict`, of the cells to learn from.
            targets: their columns of obs.
        """
        learned = [(self.line, self.codes(targets))]
        if self.branches is not None:
            learned.append((self.branches, targets[str(self.fate)]))
        for network, codes in learned:
            layer = network[-1]
            assert isinstance(layer, nn.Linear)
            regress(layer, outputs["state"], codes)
