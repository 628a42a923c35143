"""What all integration heads share: batches, the projection, and what it needs."""

from __future__ import annotations

from typing import ClassVar, Required, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Head, Outputs, Written
from scfm.head.cell_state import CellState
from scfm.head.integration.check import check_batches, warn_confounded
from scfm.head.layers import perceptron
from scfm.head.survey import Survey
from scfm.head.views import Views
from scfm.types import Backbone, Spec

#: The obsm entry of integrated cells.
KEY = "X_scfm_integrated"
#: How many neighbours a cell should stay with.
NEIGHBOURS = 5


class Shared(TypedDict, total=False):
    """Arguments of :class:`Integration` with the same default in every head."""

    batch_key: Required[str]
    condition: str | None
    hidden: int
    longest: int | None


class Viewed(Shared, total=False):
    """Arguments of :class:`Contrastive`, with the same default in every head that is one."""

    size: int
    genes: int
    stay: float
    drop: float
    jitter: float
    context: float
    thin: float


class Integration(Head):
    """A projector on the cell embedding, from which batch effects are to be removed.

    With ``genes`` the space begins at the first ``size`` gene components, and the projector, whose last layer starts at
    zero, adds a shift to them: training moves cells only as far as its loss pays for it, and ``stay`` is what it pays
    for tearing neighbours of a batch apart.

    Args:
        spec: what only the run knows.
        batch_key: obs column of the experimental batches.
        condition: obs column whose effect should survive; a warning says where every batch has a single one.
        size: width d of the integrated space.
        hidden: width of the projector's hidden layer; 0 for a linear one.
        genes: linear components of the cell's genes beside the backbone's embedding, where the space begins; 0 leaves
            them out, and the projector begins at random.
        longest: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        stay: weight of :func:`unrest`; 0: none.

    Attributes:
        labels: obs columns that batches carry.
        learned: those of them whose classes are learnt; batches that only held-out cells have are no fault.
        projection: what projecting new cells takes, in a sentence.
        sampling: how micro-batches are chosen, or None.

    Raises:
        ValueError: no such column, or a single batch.
    """

    metric: ClassVar[str] = "accuracy"
    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass the backbone and the projector, without training"
    )

    def __init__(
        self,
        spec: Spec,
        *,
        batch_key: str,
        condition: str | None = None,
        size: int = 64,
        hidden: int = 256,
        genes: int = 64,
        longest: int | None = None,
        stay: float = 0.0,
    ) -> None:
        super().__init__()
        if stay < 0:
            raise ValueError(f"head.stay={stay}; expected a weight, 0 or more")
        if longest is not None and longest < 3:
            raise ValueError(f"head.longest={longest}; expected at least 3 tokens, or null for all")
        if size < 2:
            raise ValueError(f"head.size={size}; expected at least 2 dimensions of the integrated space")
        self.names = check_batches(spec, batch_key)
        self.vocab, self.batch_key, self.condition = spec.vocab, batch_key, condition
        self.labels: tuple[str, ...] = (batch_key,) if condition is None else (batch_key, condition)
        self.learned: tuple[str, ...] = ()
        self.conditions = () if condition is None else spec.categories("head.condition", condition)
        self.size, self.hidden, self.stay = size, hidden, stay if genes else 0.0
        self.state = CellState(spec, genes, longest, score="log")
        self.projector = perceptron([self.state.width, *([hidden] if hidden else []), size], norm=False)
        if genes:
            start_at_zero(self.projector[-1])

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
        return self.place(self.state(backbone, batch))[0]

    def place(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Where cells of a state (B, D + k) lie in the integrated space, (B, d) float32, and their shift, likewise."""
        shift = self.projector(state).float()
        return self.begin(state[:, self.state.deep :]) + shift, shift

    def begin(self, components: Tensor) -> Tensor:
        """The first d of the gene components (B, k), float32; 0 where there are fewer."""
        return F.pad(components[:, : self.size].float(), (0, max(0, self.size - components.shape[1])))

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``integrated`` (B, d) of each cell; it needs no labels and does not depend on other cells."""
        return {"integrated": self.encode(backbone, batch)}

    def write(self, outputs: Arrays) -> Written:
        """The integrated space, what projecting new cells takes, and the batches it was learned from."""
        uns = {"projection": self.projection, "batch_key": self.batch_key, "batches": list(self.names)}
        return super().write(outputs) | Written(obsm={KEY: outputs["integrated"]}, uns=uns)


def start_at_zero(layer: nn.Module) -> None:
    """Set what a last layer gives to 0 until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def unrest(start: Tensor, shift: Tensor, batches: Tensor) -> Tensor:
    """Half the mean squared difference of shift between a cell and its nearest of its batch: 0 where they move alike.

    Neighbours in a batch keep their distance when both are shifted alike, however other types move: a batch effect
    may differ by type. Were all cells neighbours, this would be the variance of the shift in each batch.

    Args:
        start: (B, d) where cells begin; neighbours are the five nearest there of the micro-batch.
        shift: (B, d).
        batches: (B,) codes, -1 where missing: such cells do not count.
    """
    own = (batches[:, None] == batches) & (batches[:, None] >= 0)
    own &= ~torch.eye(len(batches), dtype=torch.bool, device=batches.device)
    distance = torch.cdist(start.detach(), start.detach()).masked_fill(~own, float("inf"))
    found, place = distance.topk(min(NEIGHBOURS, len(batches)), largest=False)
    apart = (shift[:, None] - shift[place]).square().sum(2)[found.isfinite()]
    return apart.sum() / (2 * max(len(apart), 1))


class Contrastive(Integration):
    """A head that compares cosines of random views of cells: without gene components its space is the unit sphere.

    Args:
        spec: what only the run knows.
        size: see :class:`Integration`.
        genes: likewise.
        stay: likewise.
        drop: see :class:`~scfm.head.views.Views`.
        jitter: likewise.
        context: likewise.
        thin: likewise; below 1 it needs a store with counts.
        **shared: see :class:`Integration`; ``longest`` is of a view.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        size: int = 64,
        genes: int = 64,
        stay: float = 1.0,
        drop: float = 0.2,
        jitter: float = 2.0,
        context: float = 0.5,
        thin: float = 1.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(spec, size=size, genes=genes, stay=stay, **shared)
        self.views = Views(spec.vocab, drop=drop, jitter=jitter, context=context, thin=thin, scale=spec.scale)
        self.counts = thin < 1

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space, (B, d) float32; unit vectors where it does not begin at gene components."""
        return self.finished(super().encode(backbone, batch))

    def finished(self, space: Tensor) -> Tensor:
        """The space (B, d), on the unit sphere where it does not begin at gene components."""
        return space if self.state.bag.size else F.normalize(space, dim=1)


def check_positive(**values: float) -> None:
    """Refuse numbers of the config that must be above 0.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"head.{name}={value}; expected a number above 0")


def check_shares(**values: float) -> None:
    """Refuse shares of the config outside 0 to 1.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"head.{name}={value}; expected a share, 0 to 1")
