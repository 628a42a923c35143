"""Continuous time from cell embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.head.base import Arrays, Written
from scfm.head.cell_state import Components
from scfm.head.ranges import check_not_negative, check_positive
from scfm.head.survey import Survey
from scfm.head.trajectory.base import TrajectoryOptions, regression_metrics
from scfm.head.trajectory.class_trajectory import ClassTrajectory
from scfm.head.trajectory.label import parse_numbers, spearman
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)


class Time(ClassTrajectory):
    """Regression of time with its order, and lineages where cells branch.

    t̂ = Σ_b softmax(a(h))_b c_b, the mean of a distribution over the times of the training cells or, where these are
    more than ``bins``, over that many intervals with equally many training cells each and mean times c_b.
    L = Huber(t̂, t) + ``order`` · mean log(1 + e^{−sign(t_i−t_j)(t̂_i−t̂_j)/s}) + ``fate_weight`` · CE(lineage), with t
    scaled to [0, 1] over the training cells and s = ``softness``. Cells without a time count in the last term alone.

    Args:
        spec: vocabulary, classes and widths of the run.
        label: obs column of the time: numbers, or categories that are numbers.
        batch_key: obs column of experimental batches; warns where each has a single time.
        gene_components: linear components of the cell's genes beside the backbone's embedding; 0 for none.
        variable_components: see :class:`~scfm.head.trajectory.base.Trajectory`.
        bins: number of classes of the distribution, at most.
        order: weight of the pairwise term.
        softness: s, in units of the whole range.
        **options: see :class:`~scfm.head.trajectory.base.Trajectory`; ``fate`` is the lineage or terminal state.

    Raises:
        ValueError: a column that is no time, or an unknown one; in training, a single time.
    """

    low: Tensor
    span: Tensor
    centers: Tensor
    edges: Tensor
    numbers: Tensor | None

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        batch_key: str | None = None,
        gene_components: int = 64,
        variable_components: Components = 0,
        bins: int = 16,
        order: float = 0.1,
        softness: float = 0.1,
        **options: Unpack[TrajectoryOptions],
    ) -> None:
        if bins < 2:
            raise ValueError(f"head.bins={bins}; expected at least 2")
        super().__init__(
            spec,
            label=label,
            gene_components=gene_components,
            variable_components=variable_components,
            score="log",
            n_values=bins,
            **options,
        )
        check_positive(softness=softness)
        check_not_negative(order=order)
        if batch_key is not None:
            spec.categories("head.batch_key", batch_key)
        self.order, self.softness = order, softness
        self.batch_key = batch_key
        self.labels = self.labels if batch_key is None else (*self.labels, batch_key)
        self.register_buffer("numbers", parse_numbers(spec, label), persistent=False)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("span", torch.ones(()))
        self.register_buffer("centers", torch.zeros(bins))
        self.register_buffer("edges", torch.full((bins - 1,), torch.inf))

    def prepare(self, survey: Survey) -> None:
        """Learn the range of the training cells' times; warn where each batch has a single time.

        Raises:
            ValueError: the training cells have no time, or a single one.
        """
        times = self.times(torch.from_numpy(survey.obs[str(self.label)][survey.train])).numpy()
        known = np.isfinite(times)
        if len(np.unique(times[known])) < 2:
            have = f"all have the time {times[known][0]:g}" if known.any() else "none has a time"
            raise ValueError(
                f"head.label={self.label!r}: of {len(times)} training cells {have}; expected at least two times"
            )
        self.low.fill_(float(times[known].min()))
        self.span.fill_(float(np.ptp(times[known])))
        if self.batch_key is not None:
            _warn_single_times(times[known], survey.obs[self.batch_key][survey.train][known], self.batch_key)
        self._divide((times[known] - self.low.item()) / self.span.item())
        super().prepare(survey)

    def _divide(self, scaled: np.ndarray) -> None:
        """Set the classes from the scaled times of training cells."""
        seen, bins = np.unique(scaled), len(self.centers)
        edges = (seen[1:] + seen[:-1]) / 2
        if len(seen) > bins:
            edges = np.unique(np.quantile(scaled, np.arange(1, bins) / bins))
        self.edges[: len(edges)] = torch.from_numpy(edges).to(self.edges)
        code = np.searchsorted(edges, scaled)
        for place in np.unique(code):
            self.centers[place] = float(scaled[code == place].mean())

    def codes(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Classes of the times, (n,), -1 where missing."""
        scaled = (self.times(torch.from_numpy(targets[str(self.label)]).to(self.low.device)) - self.low) / self.span
        return torch.where(scaled.isfinite(), torch.searchsorted(self.edges, scaled), -1).cpu().numpy()

    def place(self, state: Tensor) -> Tensor:
        """Scaled times of cells, (B,) float32, from their states (B, D): the means of their distributions."""
        return self.line(state).float().softmax(1) @ self.centers

    def times(self, values: Tensor) -> Tensor:
        """Times that values of the column name, (B,) float32, nan where missing."""
        if self.numbers is None:
            return values.float()
        return torch.where(values >= 0, self.numbers[values.clamp(min=0)], torch.nan)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``error`` in units of the range, ``order_accuracy``, ``n_targets``: the cells with a time."""
        state = self.state(backbone, batch)
        truth = (self.times(batch.obs[str(self.label)]) - self.low) / self.span
        metrics = regression_metrics(self.place(state), truth, order=self.order, softness=self.softness)
        return self.add_fate_loss(metrics, state, batch)

    def outputs(self, state: Tensor) -> dict[str, Tensor]:
        """``pseudotime``, 0 to 1 over the times of the training cells, and ``time`` in the units of the label."""
        place = self.place(state)
        return {"pseudotime": place, "time": place * self.span + self.low}

    def write(self, outputs: Arrays) -> Written:
        """``scfm_pseudotime``, and ``scfm_<label>`` in the units of the label."""
        return Written(obs={f"scfm_{self.label}": outputs["time"]}) | super().write(outputs)

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``spearman`` of predicted and true times over a whole epoch."""
        truth = self.times(torch.from_numpy(targets[str(self.label)]).to(self.low.device)).cpu().numpy()
        return {"spearman": spearman(outputs["time"], truth)}


def _warn_single_times(times: np.ndarray, batches: np.ndarray, key: str) -> None:
    seen = {code: np.unique(times[batches == code]) for code in np.unique(batches[batches >= 0])}
    if len(seen) > 1 and all(len(values) == 1 for values in seen.values()):
        log.warning(
            "Every %s has a single time, so a batch effect looks like an effect of time: evaluate on held-out batches.",
            key,
        )
