"""A point for each class in a learned space: loss, calibration, names, and new classes without training."""

from __future__ import annotations

from typing import ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.annotation.calibrate import MIN_CELLS, fit_temperature
from scfm.head.annotation.label_layer import Prediction, check_classes, class_weight, name_cells
from scfm.head.base import Arrays, Head, Written
from scfm.head.ranges import check_positive, check_proper_shares
from scfm.metrics.classification import keep_labeled, scores, softmax
from scfm.types import Metrics, Spec

#: The obsm entry of cells among the prototypes.
KEY = "X_scfm_prototype"


class PrototypeOptions(TypedDict, total=False):
    """Arguments of :class:`Prototypes` that a head passes on, with the same default in every head."""

    class_weights: bool
    temperature: float
    pull: float
    momentum: float
    reject: float


class Prototypes(nn.Module):
    """One point P_c a class, after scPoli (De Donno et al., 2023).

    With z the position of a cell and d the Euclidean distance,

        L = CE(softmax(−d(z, P)/τ), y) + η Σ_c (1/n_c) Σ_{i of c} ‖z_i − P_c‖

    over the labeled cells of the batch, of which n_c are of class c. Prototypes are no parameters: each is the running
    mean of its class's z, over all devices; :meth:`consolidate` replaces them by the means over a whole labeled set.

    Args:
        spec: classes and their counts.
        label: obs column.
        width: D' of the positions.
        class_weights: whether the weight of a class is inverse to its frequency, within a factor of ten.
        temperature: τ in units of √width.
        pull: η, the weight of the distance of a cell to its own prototype.
        momentum: share of a prototype that a step keeps.
        reject: share of correct calls that calibration may turn into ``unknown``.

    Attributes:
        names: names of the classes.
        means: (C, D') prototypes; a class without cells so far is NaN and never called.
        radius: (C,) distance beyond which a cell is novel; infinite until calibrated.
        sharpness: () 1/τ.

    Raises:
        ValueError: no such column, fewer than two classes, no labeled cell, or a number out of its range.
    """

    means: Tensor
    radius: Tensor
    sharpness: Tensor
    weight: Tensor

    def __init__(
        self,
        spec: Spec,
        label: str,
        width: int,
        *,
        class_weights: bool = True,
        temperature: float = 0.5,
        pull: float = 0.01,
        momentum: float = 0.9,
        reject: float = 0.05,
    ) -> None:
        super().__init__()
        check_proper_shares(momentum=momentum, reject=reject)
        check_positive(temperature=temperature)
        counts = check_classes(spec, label)
        self.names = list(spec.classes[label])
        self.pull, self.momentum, self.reject = pull, momentum, reject
        weight = class_weight(counts) if class_weights else np.ones(len(self.names))
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("means", torch.full((len(self.names), width), torch.nan))
        self.register_buffer("radius", torch.full((len(self.names),), torch.inf))
        self.register_buffer("sharpness", torch.tensor(1 / (temperature * width**0.5)))

    def forward(self, z: Tensor, truth: Tensor) -> Metrics:
        """``loss``, ``accuracy`` and ``n_targets`` of positions (B, D') and classes (B,), -1 where missing.

        In training, the prototypes are updated.
        """
        if self.training:
            self._move(z.detach(), truth)
        known = truth >= 0
        if self.means.isnan().all() or not known.any():
            return {"loss": z.sum() * 0.0, "accuracy": z.new_zeros(()), "n_targets": known.sum() * 0}
        distance, target = self.distance(z)[known], truth[known]
        logits = -distance * self.sharpness
        loss = F.cross_entropy(logits, target, weight=self.weight) + self.pull * self._pull(distance, target)
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean(), "n_targets": known.sum()}

    def distance(self, z: Tensor) -> Tensor:
        """Euclidean distances, (B, C); a large constant for a class without cells so far."""
        square = (z[:, None] - self.means.nan_to_num()[None]).square().sum(2)
        met = ~self.means.isnan().any(1)
        return torch.where(met, (square + 1e-12).sqrt(), 1e4)

    def logits(self, z: Tensor) -> Tensor:
        """−d/τ, (B, C)."""
        return -self.distance(z) * self.sharpness

    def consolidate(self, positions: np.ndarray, truth: np.ndarray) -> None:
        """Set each prototype to the mean of its cells' positions (n, D'), given classes (n,), -1 where missing."""
        for code in np.unique(truth[truth >= 0]):
            self.means[code] = torch.from_numpy(positions[truth == code].mean(axis=0)).to(self.means)

    def calibrate(self, logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Fit τ and the radius of each class on cells that were not trained on.

        The radius is the ``1 − reject`` quantile of the distance over the cells correctly called that class, over all
        correct calls where these are fewer than 20.

        Args:
            logits: (B, C), see :meth:`logits`.
            truth: (B,) class codes, -1 where missing.

        Returns:
            ``temperature``, by which τ was multiplied, and ``coverage``, the share of these cells that keep a name.
        """
        logits, truth = keep_labeled(logits, truth)
        temperature = fit_temperature(logits, truth)
        distance, called = -logits.max(axis=1) / self.sharpness.item(), logits.argmax(axis=1)
        right = called == truth
        for code in range(len(self.names)):
            of_class = right & (called == code)
            cells = of_class if of_class.sum() >= MIN_CELLS else right
            if cells.any():
                self.radius[code] = float(np.quantile(distance[cells], 1 - self.reject))
        self.sharpness /= temperature
        kept = distance <= self.radius.cpu().numpy()[called]
        return {"temperature": temperature, "coverage": float(kept.mean()) if len(kept) else float("nan")}

    def name(self, positions: np.ndarray) -> Prediction:
        """Names of cells at positions (B, D'): the class of the nearest prototype, ``unknown`` beyond its radius.

        Novelty is the distance to the nearest prototype in units of its radius (plain distance before calibration):
        above 1, the cell is farther away than the class's own cells.
        """
        distance = self.distance(torch.from_numpy(positions).to(self.means)).cpu().numpy()
        nearest, called = distance.min(axis=1), distance.argmin(axis=1)
        radius = self.radius.cpu().numpy()[called]
        novelty = nearest / np.where(np.isfinite(radius), radius, 1.0)
        confidence = softmax(-distance * self.sharpness.item()).max(axis=1)
        confidence[np.isnan(positions).any(axis=1)] = np.nan
        return name_cells(self.names, called, nearest <= radius, confidence, novelty)

    def add_class(self, name: str, positions: np.ndarray) -> None:
        """Add a class from some of its cells, without training.

        Args:
            name: name of the class.
            positions: (n, D') positions of its cells.

        Raises:
            ValueError: the class exists, or there is no cell.
        """
        if name in self.names:
            raise ValueError(f"the class {name!r} exists already; choose another name")
        if len(positions) == 0:
            raise ValueError(f"the new class {name!r} has no cell; give the positions of at least one")
        center = torch.from_numpy(positions.mean(axis=0)).to(self.means)
        spread = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
        finite = self.radius[self.radius.isfinite()]
        typical = float(finite.median()) if len(finite) else float("inf")
        enough = len(positions) >= MIN_CELLS and np.isfinite(typical)
        radius = float(np.quantile(spread, 1 - self.reject)) if enough else typical
        self.names.append(name)
        self.means = torch.cat([self.means, center[None]])
        self.radius = torch.cat([self.radius, self.radius.new_tensor([radius])])
        self.weight = torch.cat([self.weight, self.weight.new_ones(1)])

    @staticmethod
    def _pull(distance: Tensor, target: Tensor) -> Tensor:
        """Σ_c (1/n_c) Σ_{i of c} ‖z_i − P_c‖, n_c the cells of class c in the batch."""
        to_prototype = distance[torch.arange(len(target), device=target.device), target]
        return (to_prototype / target.bincount(minlength=distance.shape[1])[target]).sum()

    @torch.no_grad()
    def _move(self, z: Tensor, truth: Tensor) -> None:
        """Move each prototype toward the mean of its cells on all devices (sums and counts, never means of means)."""
        onehot = F.one_hot(truth.clamp(min=0), len(self.names)).float() * (truth >= 0).float()[:, None]
        total = torch.cat([onehot.T @ z, onehot.sum(0)[:, None]], dim=1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        sums, count = total[:, :-1], total[:, -1:]
        fresh = sums / count.clamp(min=1)
        moved = torch.where(self.means.isnan(), fresh, self.momentum * self.means + (1 - self.momentum) * fresh)
        self.means.copy_(torch.where(count > 0, moved, self.means))


class PrototypeHead(Head):
    """The hooks of a head with ``prototypes`` of an obs column, all but its loss.

    Its :meth:`predict` gives positions (B, D') under the name ``position_key``, and ``logits`` (B, C); ``label_column``
    names the obs column.
    """

    metric: ClassVar[str] = "macro_f1"
    position_key: ClassVar[str] = "position"
    prototypes: Prototypes
    label_column: str

    def class_names(self) -> dict[str, list[str]]:
        """Names of the classes, added ones included."""
        return {self.label_column: self.prototypes.names}

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``macro_f1, accuracy, balanced_accuracy, ece`` of a whole epoch."""
        return scores(outputs["logits"], targets[self.label_column])

    def update(self, outputs: Arrays, targets: Arrays) -> None:
        """Set each prototype to the mean position of its cells in a whole labeled set.

        Args:
            outputs: results of :meth:`predict` for the training cells.
            targets: their class codes by column, -1 where missing.
        """
        self.prototypes.consolidate(outputs[self.position_key], targets[self.label_column])

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Set the prototypes once more after training; see :meth:`update`."""
        self.update(outputs, targets)

    def calibrate(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Fit τ and radii on cells that neither training nor early stopping used; see :meth:`Prototypes.calibrate`."""
        return self.prototypes.calibrate(outputs["logits"], targets[self.label_column])

    def write(self, outputs: Arrays) -> Written:
        """The obs columns.

        Args:
            outputs: results of :meth:`predict`; names follow from the positions and the present prototypes.

        Returns:
            See :class:`~scfm.head.annotation.label_layer.Prediction` and :meth:`Prototypes.name`.
        """
        return super().write(outputs) | Written(
            obs=self.prototypes.name(outputs[self.position_key]).columns(self.label_column)
        )

    def add_class(self, name: str, positions: np.ndarray) -> None:
        """Add a class, see :meth:`Prototypes.add_class`; positions as ``scfm-embed`` writes them."""
        self.prototypes.add_class(name, positions)
