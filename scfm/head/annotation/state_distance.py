"""How far a cell lies from the classes in the space that the head reads, before any layer has looked at it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

#: Share of the covariance inside classes that is replaced by its mean variance.
SHRINK = 0.3
#: Cells of a class with which its own covariance counts as much as that of all classes.
OWN = 50
#: Calibration cells below which distances are not used.
MIN_CELLS = 50
#: Quantiles by which the distances of calibration cells are stored.
N_QUANTILES = 201


class StateDistance(nn.Module):
    """The squared Mahalanobis distance to the nearest class, by the class's mean and covariance.

    After Lee et al. (2018), on the state of a cell instead of on a network's layers: scores of known classes say little
    about a cell of an unknown one that has a near relative among them, its genes say more. Means and covariances are
    those of labeled training cells; the covariance of a class of n cells is its own by n / (n + 50), else that inside
    all classes. A distance becomes a familiarity by its rank among calibration cells, which neither the head nor these
    means have seen.

    Args:
        n_classes: C.
        columns: of the state, those that are read: the gene components, which no label has changed.

    Attributes:
        means: (C, k), NaN for a class without training cells.
        whitening: (C, k, k), W with W Wᵀ the inverse covariance of a class.
        known: (201,) quantiles of the distance of calibration cells; NaN until calibrated.
    """

    means: Tensor
    whitening: Tensor
    known: Tensor

    def __init__(self, n_classes: int, columns: slice) -> None:
        super().__init__()
        self.columns = columns
        width = max(columns.stop - columns.start, 0)
        self.register_buffer("means", torch.full((n_classes, width), torch.nan))
        self.register_buffer("whitening", torch.zeros(n_classes, width, width))
        self.register_buffer("known", torch.full((N_QUANTILES,), torch.nan))

    @property
    def calibrated(self) -> bool:
        """Whether familiarity is known."""
        return not bool(self.known.isnan().any())

    def fit(self, states: np.ndarray, truth: np.ndarray) -> None:
        """Learn means and covariances; nothing once calibrated, where the calibration cells are learned from.

        Args:
            states: (n, D) of cells to learn from.
            truth: (n,) class codes, -1 where missing.
        """
        labeled = truth >= 0
        classes, place = np.unique(truth[labeled], return_inverse=True)
        values = states[labeled][:, self.columns].astype(np.float64)
        if self.calibrated or not values.shape[1] or len(values) <= len(classes):
            return
        means = np.stack([values[place == i].mean(axis=0) for i in range(len(classes))])
        rest = values - means[place]
        common = rest.T @ rest / (len(values) - len(classes))
        floor = SHRINK * (np.trace(common) / len(common) + 1e-12) * np.eye(len(common))
        self.means.fill_(torch.nan)
        for i, code in enumerate(classes):
            own = rest[place == i]
            share = len(own) / (len(own) + OWN)
            covariance = (1 - SHRINK) * (share * own.T @ own / len(own) + (1 - share) * common) + floor
            self.means[code] = torch.from_numpy(means[i]).to(self.means)
            self.whitening[code] = torch.from_numpy(np.linalg.cholesky(np.linalg.inv(covariance))).to(self.whitening)

    def distance(self, states: np.ndarray) -> np.ndarray:
        """The squared distance of states (n, D) to the nearest mean, (n,) float64."""
        means, values = self.means.cpu().double().numpy(), states[:, self.columns].astype(np.float64)
        nearest = np.full(len(values), np.inf)
        for code in np.flatnonzero(~np.isnan(means).any(axis=1)):
            gap = (values - means[code]) @ self.whitening[code].cpu().double().numpy()
            nearest = np.minimum(nearest, np.square(gap).sum(axis=1))
        return nearest

    def calibrate(self, states: np.ndarray) -> np.ndarray | None:
        """Learn how far cells of known classes lie from cells (n, D) that nothing was fitted on.

        Returns:
            Their familiarity, (n,); None where there are fewer than 50 of them, or no class was fitted.
        """
        self.known.fill_(torch.nan)
        if len(states) < MIN_CELLS or bool(self.means.isnan().all()) or not self.means.shape[1]:
            return None
        distance = self.distance(states)
        self.known.copy_(torch.from_numpy(np.quantile(distance, np.linspace(0, 1, N_QUANTILES))))
        return self.rate(states)

    def rate(self, states: np.ndarray) -> np.ndarray:
        """The familiarity of states (n, D), (n,) float64 in (0, 1].

        The share of calibration cells that lie farther away; beyond all n of them 1/(n+1) of 201 quantiles, times the
        largest distance over the cell's own, so that it falls on.
        """
        known = self.known.cpu().double().numpy()
        distance = self.distance(states)
        least = 1 / (N_QUANTILES + 1)
        inside = np.interp(distance, known, np.linspace(1, least, N_QUANTILES))
        return np.where(distance > known[-1], least * known[-1] / np.maximum(distance, 1e-300), inside)
