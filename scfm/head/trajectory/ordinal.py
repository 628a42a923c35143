"""Ordered stages from cell embeddings."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.survey import Survey
from scfm.head.trajectory.base import STAGE, Trajectory, with_fates
from scfm.head.trajectory.label import ordered_stages, spearman
from scfm.types import Backbone, Batch, Metrics, Spec


class Ordinal(Trajectory):
    """Cumulative logits over K ordered stages (McCullagh 1980; CORAL, Cao et al. 2020).

    P(y > k) = σ(a(h) − θ_k), θ_1 < … < θ_{K−1}, L = −Σ_k [1{y>k} log P(y>k) + 1{y≤k} log P(y≤k)], mean over the cells
    with a stage. Pseudotime is the expected stage, Σ_k P(y > k) / (K − 1).

    Args:
        spec: what only the run knows.
        label: obs column of the stages.
        stages: its categories from first to last; null takes the order of numbers.
        fate: obs column that names the terminal state of terminal cells; null leaves it out.
        genes: see :class:`~scfm.head.trajectory.base.Trajectory`.
        context: likewise.
        warm_up: likewise.
        hidden: width of the hidden layer; 0 for a linear network.
        dropout: before each linear layer.
        fate_weight: weight of the fates.

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
        fate: str | None = None,
        genes: int = 32,
        context: int | None = None,
        warm_up: int = 300,
        hidden: int = 128,
        dropout: float = 0.1,
        fate_weight: float = 1.0,
    ) -> None:
        super().__init__(
            spec, label=label, fate=fate, genes=genes, context=context, warm_up=warm_up, hidden=hidden, dropout=dropout
        )
        self.stages, self.fate_weight = ordered_stages(spec, label, stages), fate_weight
        rank = [self.stages.index(name) for name in spec.classes[label]]
        self.register_buffer("rank", torch.tensor(rank), persistent=False)
        n = len(self.stages) - 1
        self.first = nn.Parameter(torch.tensor(-(n - 1) / 2.0))
        self.steps = nn.Parameter(torch.full((n - 1,), math.log(math.e - 1)))  # softplus of it is 1

    def prepare(self, survey: Survey) -> None:
        """Fit the components of genes on the training cells, and begin."""
        super().prepare(survey)
        codes = survey.obs[str(self.label)]
        known = survey.train & (codes >= 0)
        truth = self.rank.cpu()[torch.from_numpy(codes[known])]
        self.begin(survey, known, lambda state, rows: self.loss(self.logits(state), truth[rows]))

    @property
    def thresholds(self) -> Tensor:
        """(K-1,) θ, strictly increasing."""
        return torch.cat([self.first[None], self.first + F.softplus(self.steps).cumsum(0)])

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
        return with_fates(self, state, batch, metrics, self.fate_weight)

    def logits(self, state: Tensor) -> Tensor:
        """(B, K-1) a(h) − θ_k."""
        return self.place(state)[:, None] - self.thresholds

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Mean over cells of the summed binary cross-entropies; ranks (B,) from 0."""
        above = (truth[:, None] > torch.arange(logits.shape[1], device=truth.device)).float()
        total = F.binary_cross_entropy_with_logits(logits, above, reduction="sum")
        return total / max(len(truth), 1)

    def outputs(self, state: Tensor) -> dict[str, Tensor]:
        """``pseudotime`` in [0, 1] and ``stage``, the rank of the median stage."""
        logits = self.logits(state)
        return {"pseudotime": logits.sigmoid().mean(1), "stage": (logits > 0).sum(1)}

    def annotate(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``scfm_pseudotime`` and ``scfm_stage``, names; missing for a cell without genes."""
        missing = np.isnan(outputs["pseudotime"])
        names = np.array(self.stages, dtype=object)[np.where(missing, 0, outputs["stage"]).astype(np.int64)]
        return super().annotate(outputs) | {STAGE: np.where(missing, "unknown", names)}

    def summarise(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
        """``spearman`` of pseudotime and true rank over a whole epoch."""
        codes = targets[str(self.label)]
        truth = np.where(codes >= 0, self.rank.cpu().numpy()[np.maximum(codes, 0)], np.nan)
        return {"spearman": spearman(outputs["pseudotime"], truth)}
