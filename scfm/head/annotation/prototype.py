"""Cell types as points in a learned space: distances instead of scores, so that new types can be seen and added."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.annotation.calibrate import MIN_CELLS, fit_temperature
from scfm.head.annotation.column import UNKNOWN, check_classes, class_weight
from scfm.head.annotation.discriminant import discriminant_directions
from scfm.head.annotation.score import labelled, scores, softmax
from scfm.head.state import CellState
from scfm.head.survey import Survey
from scfm.types import Backbone, Batch, Metrics, Spec

#: The obsm entry of cells among the prototypes.
KEY = "X_scfm_prototype"


class Prototype(nn.Module):
    """Nearest-prototype classification in an open world (after scPoli: De Donno et al., 2023).

    With z the projected embedding, P_c the prototype of class c and d the Euclidean distance,

        L = CE(softmax(−d(z, P)/τ), y) + η Σ_c (1/n_c) Σ_{i of c} ‖z_i − P_c‖

    over the labelled cells of the batch, n_c counted there. The projection begins at the discriminant directions of the
    labelled cells (:mod:`scfm.head.annotation.discriminant`). Prototypes are no parameters: each is the running mean of
    its class's z, summed over all devices; :meth:`consolidate` replaces them by the means over a whole labelled set.
    A new class is a new row (:meth:`add_class`), without training.

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

    Attributes:
        means: (C, D') prototypes; a class not met yet is NaN and never called.
        radius: (C,) distance beyond which a cell is novel; infinite until calibrated.

    Raises:
        ValueError: no such column, fewer than two classes, no labelled cell, or a number out of its range.
    """

    causal: ClassVar[bool | None] = None
    metric: ClassVar[str] = "macro_f1"
    means: Tensor
    radius: Tensor
    sharpness: Tensor
    weight: Tensor

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
        self.counts_needed = counts
        for name, value in {"dropout": dropout, "momentum": momentum, "reject": reject}.items():
            if not 0 <= value < 1:
                raise ValueError(f"head.{name}={value}; expected a share, 0 <= {name} < 1")
        if temperature <= 0:
            raise ValueError(f"head.temperature={temperature}; expected a number above 0")
        found = check_classes(spec, label)
        self.labels, self.names = (label,), list(spec.classes[label])
        self.pull, self.momentum, self.reject = pull, momentum, reject
        self.state = CellState(spec, genes, context, score="counts" if counts else "log")
        self.dropout = nn.Dropout(dropout)
        self.projector = nn.Linear(self.state.width, dim) if dim else nn.Identity()
        width, n_classes = dim or self.state.width, len(self.names)
        weight = class_weight(found) if class_weights else np.ones(n_classes)
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("means", torch.full((n_classes, width), torch.nan))
        self.register_buffer("radius", torch.full((n_classes,), torch.inf))
        self.register_buffer("sharpness", torch.tensor(1 / (temperature * width**0.5)))

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        return self.state.view(batch)

    def prepare(self, survey: Survey) -> None:
        """Fit the components of genes on the training cells, and begin at the directions that tell classes apart."""
        self.state.prepare(survey)
        truth = survey.obs[self.labels[0]]
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
        z, truth = self._position(self.state(backbone, batch)), batch.obs[self.labels[0]]
        if self.training:
            self._move(z.detach(), truth)
        known = truth >= 0
        if self.means.isnan().all() or not known.any():
            return {"loss": z.sum() * 0.0, "accuracy": z.new_zeros(()), "n_targets": known.sum() * 0}
        distance = self._distance(z)[known]
        logits, own = -distance * self.sharpness, truth[known]
        loss = F.cross_entropy(logits, own, weight=self.weight) + self.pull * self._pull(distance, own)
        return {"loss": loss, "accuracy": (logits.argmax(1) == own).float().mean(), "n_targets": known.sum()}

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names that a checkpoint must know, those of added classes included."""
        return {self.labels[0]: self.names}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``embedding`` (B, D), ``position`` (B, D') in the learned space, ``logits`` (B, C), −d/τ; needs no labels."""
        state = self.state(backbone, batch)
        z = self._position(state)
        return {"embedding": state, "position": z, "logits": -self._distance(z) * self.sharpness}

    def summarise(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
        """``macro_f1, accuracy, balanced_accuracy, ece`` of a whole epoch."""
        return scores(outputs["logits"], targets[self.labels[0]])

    def consolidate(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> None:
        """Set each prototype to the mean position of its cells in a whole labelled set.

        Args:
            outputs: what :meth:`predict` gave for the training cells.
            targets: their class codes by column, -1 where missing.
        """
        truth = targets[self.labels[0]]
        for code in np.unique(truth[truth >= 0]):
            self.means[code] = torch.from_numpy(outputs["position"][truth == code].mean(axis=0)).to(self.means)

    refit = consolidate

    def calibrate(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
        """Fit τ and the radius of each class on cells that were not trained on.

        The radius is the ``1 − reject`` quantile of the distance over the cells correctly called that class, over all
        correct calls where these are fewer than 20.

        Args:
            outputs: what :meth:`predict` gave for cells that neither training nor early stopping saw.
            targets: their class codes by column, -1 where missing.

        Returns:
            ``temperature``, by which τ was multiplied, and ``coverage``, the share of these cells that keep a name.
        """
        logits, truth = labelled(outputs["logits"], targets[self.labels[0]])
        temperature = fit_temperature(logits, truth)
        distance, called = -logits.max(axis=1) / self.sharpness.item(), logits.argmax(axis=1)
        right = called == truth
        for code in range(len(self.names)):
            own = right & (called == code)
            use = own if own.sum() >= MIN_CELLS else right
            if use.any():
                self.radius[code] = float(np.quantile(distance[use], 1 - self.reject))
        self.sharpness /= temperature
        kept = distance <= self.radius.cpu().numpy()[called]
        return {"temperature": temperature, "coverage": float(kept.mean()) if len(kept) else float("nan")}

    def annotate(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The obs columns for embedded cells.

        Args:
            outputs: what :meth:`predict` gave; positions count, so that later classes and calibrations are heeded.

        Returns:
            ``scfm_<label>`` (B,) names, ``unknown`` beyond the radius; ``scfm_<label>_confidence`` (B,) float32; and
            ``scfm_<label>_novelty`` (B,) float32, the distance to the nearest prototype in units of its radius (plain
            distance before calibration): above 1 is farther than the class's own cells lie.
        """
        position = torch.from_numpy(outputs["position"]).to(self.means)
        distance = self._distance(position).cpu().numpy()
        nearest, called = distance.min(axis=1), distance.argmin(axis=1)
        radius = self.radius.cpu().numpy()[called]
        names = np.array(self.names, dtype=object)[called]
        names[nearest > radius] = UNKNOWN
        novelty = nearest / np.where(np.isfinite(radius), radius, 1.0)
        confidence = softmax(-distance * self.sharpness.item()).max(axis=1)
        column = f"scfm_{self.labels[0]}"
        return {
            column: names,
            f"{column}_confidence": confidence.astype(np.float32),
            f"{column}_novelty": novelty.astype(np.float32),
        }

    def project(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The obsm entry for embedded cells, from what :meth:`predict` gave: where they lie among the prototypes."""
        return {KEY: outputs["position"]}

    def artifacts(self) -> dict[str, str | list[str]]:
        """Plain values that go beside the positions: what they need, and the classes there are."""
        return {"projection": "genes alone: new cells take one forward pass", "classes": list(self.names)}

    def add_class(self, name: str, positions: np.ndarray) -> None:
        """A new class from some of its cells, without training.

        Args:
            name: of the class.
            positions: (n, D') of its cells, as :meth:`predict` gives them.

        Raises:
            ValueError: the class exists, or there is no cell.
        """
        if name in self.names:
            raise ValueError(f"the class {name!r} exists already; its cells can move it by further training")
        if len(positions) == 0:
            raise ValueError(f"the new class {name!r} has no cell; give the positions of at least one")
        centre = torch.from_numpy(positions.mean(axis=0)).to(self.means)
        spread = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
        finite = self.radius[self.radius.isfinite()]
        typical = float(finite.median()) if len(finite) else float("inf")
        enough = len(positions) >= MIN_CELLS and np.isfinite(typical)
        radius = float(np.quantile(spread, 1 - self.reject)) if enough else typical
        self.names.append(name)
        self.means = torch.cat([self.means, centre[None]])
        self.radius = torch.cat([self.radius, self.radius.new_tensor([radius])])
        self.weight = torch.cat([self.weight, self.weight.new_ones(1)])

    def _position(self, state: Tensor) -> Tensor:
        return self.projector(self.dropout(state)).float()

    def _distance(self, z: Tensor) -> Tensor:
        """(B, C) Euclidean distances; to a class not met yet, farther than to all others."""
        square = (z[:, None] - self.means.nan_to_num()[None]).square().sum(2)
        distance = (square + 1e-12).sqrt()
        met = ~self.means.isnan().any(1)
        return torch.where(met, distance, 1e4)

    @staticmethod
    def _pull(distance: Tensor, own: Tensor) -> Tensor:
        """Σ_c (1/n_c) Σ_{i of c} ‖z_i − P_c‖, n_c the cells of class c in the batch."""
        to_own = distance[torch.arange(len(own), device=own.device), own]
        return (to_own / own.bincount(minlength=distance.shape[1])[own]).sum()

    @torch.no_grad()
    def _move(self, z: Tensor, truth: Tensor) -> None:
        """Move each prototype towards the mean of its cells on all devices (sums and counts, never means of means)."""
        onehot = F.one_hot(truth.clamp(min=0), len(self.names)).float() * (truth >= 0).float()[:, None]
        total = torch.cat([onehot.T @ z, onehot.sum(0)[:, None]], dim=1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        sums, count = total[:, :-1], total[:, -1:]
        fresh = sums / count.clamp(min=1)
        moved = torch.where(self.means.isnan(), fresh, self.momentum * self.means + (1 - self.momentum) * fresh)
        self.means.copy_(torch.where(count > 0, moved, self.means))
