"""Integration against a discriminator that predicts the batch. It over-corrects and is here for comparison."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Contrastive, ContrastiveOptions, neighbor_loss
from scfm.head.layers import perceptron
from scfm.head.ranges import check_positive
from scfm.head.survey import Survey
from scfm.model.contrast import nt_xent
from scfm.types import Backbone, Metrics, Spec


class Adversarial(Contrastive):
    """Contrast of views, and a gradient-reversed batch classifier (Ganin et al. 2016; iMAP, JIND, GLUE).

    L = NT-Xent + CE(D(GRL_λ(z)), b), where GRL multiplies the gradient by −λ, z is the integrated space, and the weight
    of a cell is inverse to the frequency of its batch, or of its batch and type. A type that only one batch has is
    removed by this loss: compare with care.

    Args:
        spec: vocabulary, classes and widths of the run.
        label: obs column of types for the weights; null for weights by batch alone.
        strength: λ, reached after ``warmup`` training micro-batches.
        warmup: micro-batches over which λ rises from 0.
        temperature: of the contrast.
        **options: see :class:`~scfm.head.integration.base.Contrastive`.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    weights: Tensor
    step: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        label: str | None = None,
        strength: float = 0.1,
        warmup: int = 100,
        temperature: float = 0.4,
        **options: Unpack[ContrastiveOptions],
    ) -> None:
        super().__init__(spec, **options)
        check_positive(strength=strength, warmup=warmup, temperature=temperature, hidden=self.hidden)
        self.label, self.strength, self.warmup, self.temperature = label, strength, warmup, temperature
        self.labels = self.labels if label is None else (*self.labels, label)
        self.discriminator = perceptron([self.width, self.hidden, len(self.names)])
        n_types = 1 if label is None else len(spec.categories("head.label", label)) + 1  # the last is a missing type
        self.register_buffer("weights", torch.ones(len(self.names), n_types))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def prepare(self, survey: Survey) -> None:
        """Set the weights of batches and types, inverse to the number of their training cells."""
        super().prepare(survey)
        batches = survey.obs[self.batch_key][survey.train]
        types = np.zeros_like(batches) if self.label is None else survey.obs[self.label][survey.train]
        table = np.zeros(tuple(self.weights.shape))
        np.add.at(table, (batches[batches >= 0], types[batches >= 0]), 1)  # a missing type, -1, is the last column
        inverse = np.divide(1.0, table, out=np.zeros_like(table), where=table > 0)
        self.weights.copy_(torch.from_numpy(inverse * table.sum() / max((table > 0).sum(), 1)))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` of the contrast, and ``batch_accuracy`` of the discriminator (chance is best)."""
        codes = batch.obs[self.batch_key]
        one, two, shift = self.place_views(backbone, batch)
        views = F.normalize(one, dim=1), F.normalize(two, dim=1)
        loss, accuracy = nt_xent(*views, codes, temperature=self.temperature)
        slope = self.strength * min(1.0, int(self.step) / self.warmup)
        logits = self.discriminator(reverse_gradient(torch.cat([one, two]), slope)).float()
        naming, batch_accuracy = self.naming_loss(logits, codes.repeat(2), self._types(batch, codes).repeat(2))
        if self.training:
            self.step += 1
        return {
            "loss": loss + naming + self.neighbor_weight * neighbor_loss(one - shift, shift, codes),
            "accuracy": accuracy,
            "batch_accuracy": batch_accuracy,
        }

    def naming_loss(self, logits: Tensor, codes: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy of batch codes (N,), without those of -1, and the accuracy."""
        known = codes >= 0
        weight = self.weights[codes.clamp(min=0), types] * known
        total = (F.cross_entropy(logits, codes.clamp(min=0), reduction="none") * weight).sum()
        right = ((logits.argmax(1) == codes) & known).sum()
        return total / weight.sum().clamp(min=1e-6), right / known.sum().clamp(min=1)

    def _types(self, batch: Batch, codes: Tensor) -> Tensor:
        return torch.zeros_like(codes) if self.label is None else batch.obs[self.label]


class _GradientReversal(torch.autograd.Function):
    """The identity, with its gradient multiplied by −λ."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.slope * gradient, None


def reverse_gradient(value: Tensor, slope: float) -> Tensor:
    """GRL_λ of Ganin et al.: the same value, with the gradient multiplied by −``slope``."""
    return _GradientReversal.apply(value, slope)
