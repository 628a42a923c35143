"""What all integration heads share: batches, the projection, and what it needs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.integration.check import check_batches, warn_confounded
from scfm.head.perceptron import perceptron
from scfm.head.state import CellState
from scfm.head.survey import Survey
from scfm.types import Backbone, Batch, Sampling, Spec

#: The obsm entry of integrated cells.
KEY = "X_scfm_integrated"


class Integration(nn.Module):
    """A projector on the cell embedding, from which batch effects are to be removed.

    With ``genes`` the space begins at the first ``size`` gene components, and the projector, whose last layer starts at
    zero, adds a shift to them: training moves cells only as far as its loss pays for it.

    Args:
        spec: what only the run knows.
        batch_key: obs column of the experimental batches.
        condition: obs column whose effect should survive; a warning says where every batch has a single one.
        size: width d of the integrated space.
        hidden: width of the projector's hidden layer; 0 for a linear one.
        genes: linear components of the cell's genes beside the backbone's embedding, where the space begins; 0 leaves
            them out, and the projector begins at random.
        context: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.

    Attributes:
        labels: obs columns that batches carry.
        learnt: those of them whose classes are learnt; batches that only held-out cells have are no fault.
        needs: what projecting new cells takes, in a sentence.
        sampling: how micro-batches are chosen, or None.

    Raises:
        ValueError: no such column, or a single batch.
    """

    causal: ClassVar[bool | None] = None
    metric: ClassVar[str] = "accuracy"
    needs: ClassVar[str] = "genes alone: cells of unseen batches pass the backbone and the projector, without training"

    def __init__(
        self,
        spec: Spec,
        *,
        batch_key: str,
        condition: str | None = None,
        size: int = 64,
        hidden: int = 0,
        genes: int = 0,
        context: int | None = None,
    ) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"head.size={size}; expected at least 2 dimensions of the integrated space")
        self.names = check_batches(spec, batch_key)
        self.vocab, self.batch_key, self.condition = spec.vocab, batch_key, condition
        self.labels: tuple[str, ...] = (batch_key,) if condition is None else (batch_key, condition)
        self.learnt: tuple[str, ...] = ()
        self.conditions = () if condition is None else spec.classes.get(condition, ())
        if condition is not None and not self.conditions:
            raise ValueError(f"head.condition={condition!r} is not a categorical obs column of the store")
        self.state = CellState(spec, genes, context)
        self.projector = perceptron([self.state.width, *([hidden] if hidden else []), size], norm=False)
        if genes:
            for parameter in self.projector[-1].parameters():
                nn.init.zeros_(parameter)
        self.sampling: Sampling | None = None

    def prepare(self, survey: Survey) -> None:
        """Look at the cells before training: fit the components; warn where batch and condition are one."""
        self.state.prepare(survey)
        if self.condition is not None:
            codes = [survey.obs[name][survey.train] for name in (self.batch_key, self.condition)]
            warn_confounded(codes[0], codes[1], self.names, self.conditions, self.condition)

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        return self.state.view(batch)

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space, (B, d) float32."""
        return self.placed(backbone, batch)[0]

    def placed(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
        """The integrated space, (B, d) float32, and how far the projector has moved each cell in it, likewise."""
        state = self.state(backbone, batch)
        shift = self.projector(state).float()
        start = state[:, self.state.deep :][:, : shift.shape[1]].float()
        return shift + F.pad(start, (0, shift.shape[1] - start.shape[1])), shift

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``integrated`` (B, d) of each cell; needs no labels, and no other cell has a say in it."""
        return {"integrated": self.encode(backbone, batch)}

    def project(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The obsm entries for embedded cells, from what :meth:`predict` gave."""
        return {KEY: outputs["integrated"]}

    def artifacts(self) -> dict[str, str | list[str]]:
        """Plain values that go beside the projection: what it needs, and the batches it learned from."""
        return {"projection": self.needs, "batch_key": self.batch_key, "batches": list(self.names)}


def unrest(shift: Tensor, batches: Tensor) -> Tensor:
    """Mean squared distance of a cell's shift from the mean shift of its batch: 0 where batches move as a whole.

    Two cells of a batch keep their distance when both are shifted alike, so this is what integration does to
    neighbourhoods inside batches.

    Args:
        shift: (B, d).
        batches: (B,) codes, -1 where missing: such cells do not count.
    """
    known = batches >= 0
    shift, codes = shift[known], batches[known].unique(return_inverse=True)[1]
    if len(codes) == 0:
        return shift.sum() * 0.0
    member = F.one_hot(codes).to(shift.dtype)
    mean = (member / member.sum(0)).T @ shift
    return (shift - mean[codes]).square().sum(1).mean()


class Contrastive(Integration):
    """An integration head whose space is the unit sphere, where cosines are compared."""

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Unit vectors, (B, d) float32."""
        return F.normalize(super().encode(backbone, batch), dim=1)


def check_positive(**values: float) -> None:
    """Refuse numbers of the config that must be above 0.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"head.{name}={value}; expected a number above 0")


def check_stay(value: float) -> None:
    """Refuse a negative weight of :func:`unrest`.

    Raises:
        ValueError: naming it.
    """
    if value < 0:
        raise ValueError(f"head.stay={value}; expected a weight, 0 or more")


def check_shares(**values: float) -> None:
    """Refuse shares of the config outside 0 to 1.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"head.{name}={value}; expected a share, 0 to 1")
