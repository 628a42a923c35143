"""Ordered stages from cell embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Written
from scfm.head.cell_state import Components
from scfm.head.trajectory.base import STAGE, TrajectoryOptions
from scfm.head.trajectory.class_trajectory import ClassTrajectory
from scfm.head.trajectory.label import ordered_stages, spearman
from scfm.types import Backbone, Metrics, Spec


class Ordinal(ClassTrajectory):
    """The distribution of a cell over K ordered stages, by a linear layer on the cell's state.

    P(y > k) = Σ_{j>k} softmax(a(h))_j, L = −Σ_k [1{y>k} log P(y>k) + 1{y≤k} log P(y≤k)], mean over the cells with a
    stage. A cell's stage is the median of its distribution, pseudotime the mean, over K − 1.

    Args:
        spec: vocabulary, classes and widths of the run.
        label: obs column of the stages.
        stages: its categories from first to last; null for the order of numbers.
        gene_components: linear components of the cell's genes beside the backbone's embedding; 0 for none.
        variable_components: see :class:`~scfm.head.trajectory.base.Trajectory`.
        **options: see :class:`~scfm.head.trajectory.base.Trajectory`.

    Raises:
        ValueError: stages that are not ordered, an unknown column, or a number out of its range.
    """

    rank: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        stages: list[str] | None = None,
        gene_components: int = 64,
        variable_components: Components = 0,
        **options: Unpack[TrajectoryOptions],
    ) -> None:
        ordered = ordered_stages(spec, label, stages)
        super().__init__(
            spec,
            label=label,
            gene_components=gene_components,
            variable_components=variable_components,
            score="log",
            n_values=len(ordered),
            **options,
        )
        self.stages = ordered
        rank = [self.stages.index(name) for name in spec.classes[label]]
        self.register_buffer("rank", torch.tensor(rank), persistent=False)

    def codes(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Ranks of the stages, (n,), -1 where missing."""
        codes = targets[str(self.label)]
        return np.where(codes >= 0, self.rank.cpu().numpy()[codes], -1)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy``, ``error`` in stages, ``n_targets``: the cells with a stage."""
        state = self.state(backbone, batch)
        codes = batch.obs[str(self.label)]
        known = codes >= 0
        logits, truth = self.logits(state)[known], self.rank[codes[known]]
        predicted = (logits > 0).sum(1)
        n = known.sum()
        metrics = {
            "loss": self.loss(logits, truth),
            "accuracy": (predicted == truth).sum() / n.clamp(min=1),
            "error": (predicted - truth).abs().sum() / n.clamp(min=1),
            "n_targets": n,
        }
        return self.add_fate_loss(metrics, state, batch)

    def logits(self, state: Tensor) -> Tensor:
        """Log P(y > k) − log P(y ≤ k), (B, K-1), decreasing in k."""
        log_p = self.line(state).float().log_softmax(1)
        above = log_p.flip(1).logcumsumexp(1).flip(1)[:, 1:]
        return above - log_p.logcumsumexp(1)[:, :-1]

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Mean over cells of the summed binary cross-entropies; ranks (B,) from 0."""
        above = (truth[:, None] > torch.arange(logits.shape[1], device=truth.device)).float()
        total = F.binary_cross_entropy_with_logits(logits, above, reduction="sum")
        return total / max(len(truth), 1)

    def outputs(self, state: Tensor) -> dict[str, Tensor]:
        """``pseudotime`` in [0, 1] and ``stage``, the rank of the median stage."""
        logits = self.logits(state)
        return {"pseudotime": logits.sigmoid().mean(1), "stage": (logits > 0).sum(1)}

    def write(self, outputs: Arrays) -> Written:
        """``scfm_pseudotime``, and the names ``scfm_stage``; ``unknown`` for a cell without genes."""
        missing = np.isnan(outputs["pseudotime"])
        names = np.array(self.stages, dtype=object)[np.where(missing, 0, outputs["stage"]).astype(np.int64)]
        return super().write(outputs) | Written(obs={STAGE: np.where(missing, "unknown", names)})

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``spearman`` of pseudotime and true rank over a whole epoch."""
        rank = self.codes(targets)
        return {"spearman": spearman(outputs["pseudotime"], np.where(rank >= 0, rank, np.nan))}
