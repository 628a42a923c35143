"""What all integration heads share: batches, the projector, and the space it begins in."""

from __future__ import annotations

from typing import ClassVar, Required, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.integration.check import check_batches, warn_confounded
from scfm.head.layers import perceptron
from scfm.head.ranges import check_not_negative
from scfm.head.survey import Survey
from scfm.head.views import ViewOptions, Views, batch_generator
from scfm.types import Backbone, Spec

#: The obsm entry of integrated cells.
KEY = "X_scfm_integrated"
#: Neighbors of a cell whose distances :func:`neighbor_loss` preserves.
N_NEIGHBORS = 5


class SharedOptions(TypedDict, total=False):
    """Arguments of :class:`Integration` with the same default in every head."""

    batch_key: Required[str]
    condition: str | None
    hidden: int
    max_tokens: int | None


class ContrastiveOptions(SharedOptions, total=False):
    """Arguments of :class:`Contrastive` with the same default in every head derived from it."""

    width: int
    gene_components: int
    neighbor_weight: float
    view: ViewOptions | None


class Integration(StateHead):
    """A projector on the cell state, from which batch effects are to be removed.

    With ``gene_components`` the integrated space begins at the first ``width`` gene components, and the projector,
    whose last layer starts at zero, adds a shift to them: training moves a cell only as far as the loss requires, and
    ``neighbor_weight`` penalizes moving neighbors of a batch apart.

    Args:
        spec: vocabulary, classes and widths of the run.
        batch_key: obs column of the experimental batches.
        condition: obs column whose effect should be preserved; a warning follows where every batch has a single one.
        width: width d of the integrated space.
        hidden: width of the projector's hidden layer; 0 for a linear projector.
        gene_components: linear components of the cell's genes beside the backbone's embedding, at which the integrated
            space begins; 0 for none, and the projector begins at random.
        variable_components: components of genes that vary inside batches, log-normalized and not scaled, which stand in
            place of ``gene_components``; they need counts. 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        neighbor_weight: weight of :func:`neighbor_loss`; 0 for none.

    Attributes:
        labels: obs columns that batches carry.
        learned: those of them whose classes are learned; batches that only held-out cells have are no fault.
        projection: what is needed to project new cells, in a sentence.
        sampling: how micro-batches are chosen, or None.

    Raises:
        ValueError: no such column, or a single batch.
    """

    metric: ClassVar[str] = "accuracy"
    auto_components: ClassVar[int] = 10
    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass the backbone and the projector, without training"
    )

    def __init__(
        self,
        spec: Spec,
        *,
        batch_key: str,
        condition: str | None = None,
        width: int = 64,
        hidden: int = 256,
        gene_components: int = 64,
        variable_components: Components = 0,
        max_tokens: int | None = None,
        neighbor_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_not_negative(neighbor_weight=neighbor_weight)
        if width < 2:
            raise ValueError(f"head.width={width}; expected at least 2 dimensions of the integrated space")
        self.names = check_batches(spec, batch_key)
        self.vocab, self.batch_key, self.condition = spec.vocab, batch_key, condition
        self.labels: tuple[str, ...] = (batch_key,) if condition is None else (batch_key, condition)
        self.learned: tuple[str, ...] = ()
        self.conditions = () if condition is None else spec.categories("head.condition", condition)
        self.width, self.hidden = width, hidden
        self.state = CellState(
            spec,
            0 if variable_components else gene_components,
            max_tokens,
            score="log",
            variable_components=variable_components,
            scaled=False,
            batch_key=batch_key,
        )
        self.counts = self.counts or self.state.counts
        has_components = self.state.width > self.state.deep
        self.neighbor_weight = neighbor_weight if has_components else 0.0
        self.projector = perceptron([self.state.width, *([hidden] if hidden else []), width], norm=False)
        if has_components:
            start_at_zero(self.projector[-1])

    def prepare(self, survey: Survey) -> None:
        """Fit the components; warn where each batch has a single condition."""
        super().prepare(survey)
        if self.condition is not None:
            codes = [survey.obs[name][survey.train] for name in (self.batch_key, self.condition)]
            warn_confounded(codes[0], codes[1], self.names, self.conditions, self.condition)

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space, (B, d) float32."""
        return self.place(self.state(backbone, batch))[0]

    def place(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the integrated space and shifts, (B, d) float32 each, from the state of cells (B, D + k)."""
        shift = self.projector(state).float()
        return self.start_position(state[:, self.state.deep :]) + shift, shift

    def start_position(self, components: Tensor) -> Tensor:
        """The first d of the components (B, k), float32; 0 where there are fewer."""
        return F.pad(components[:, : self.width].float(), (0, max(0, self.width - components.shape[1])))

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``integrated`` (B, d) of each cell; it needs no labels and does not depend on other cells."""
        return {"integrated": self.encode(backbone, batch)}

    def write(self, outputs: Arrays) -> Written:
        """The integrated space, what projecting new cells takes, and the batches it was learned from."""
        uns = {"projection": self.projection, "batch_key": self.batch_key, "batches": list(self.names)}
        return super().write(outputs) | Written(obsm={KEY: outputs["integrated"]}, uns=uns)


def start_at_zero(layer: nn.Module) -> None:
    """Set the parameters of a last layer to 0, so that its output is 0 until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def neighbor_loss(start: Tensor, shift: Tensor, batches: Tensor) -> Tensor:
    """Half the mean squared difference of shift between a cell and its nearest cells of the same batch.

    The loss is 0 where neighbors have the same shift, however cells of other types are shifted: a batch effect may
    differ by type. Were all cells neighbors, it would be the variance of the shift in each batch.

    Args:
        start: (B, d) positions before the shift; neighbors are the five nearest of the micro-batch there.
        shift: (B, d).
        batches: (B,) codes, -1 where missing: such cells do not count.
    """
    same = (batches[:, None] == batches) & (batches[:, None] >= 0)
    same &= ~torch.eye(len(batches), dtype=torch.bool, device=batches.device)
    distance = torch.cdist(start.detach(), start.detach()).masked_fill(~same, float("inf"))
    nearest, place = distance.topk(min(N_NEIGHBORS, len(batches)), largest=False)
    difference = (shift[:, None] - shift[place]).square().sum(2)[nearest.isfinite()]
    return difference.sum() / (2 * max(len(difference), 1))


class Contrastive(Integration):
    """A head that compares cosines of random views of cells: without gene components its space is the unit sphere.

    Args:
        spec: vocabulary, classes and widths of the run.
        width: see :class:`Integration`.
        gene_components: see :class:`Integration`.
        neighbor_weight: see :class:`Integration`.
        view: how far views differ from their cell; None for the defaults of :class:`~scfm.head.views.ViewOptions`.
        **options: see :class:`Integration`; ``max_tokens`` is of a view.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 64,
        gene_components: int = 64,
        neighbor_weight: float = 1.0,
        view: ViewOptions | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(spec, width=width, gene_components=gene_components, neighbor_weight=neighbor_weight, **options)
        self.views = Views(view or ViewOptions(), spec.vocab, spec.scale)
        self.counts = self.views.options.min_depth < 1

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space, (B, d) float32; unit vectors where there are no gene components."""
        return self.finalize(super().encode(backbone, batch))

    def place_views(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of two views of each cell, and the shift of the first; (B, d) float32 each."""
        generator = batch_generator(batch)
        (one, shift), (two, _) = (self.place(self.state(backbone, self.views(batch, generator))) for _ in range(2))
        return one, two, shift

    def finalize(self, space: Tensor) -> Tensor:
        """The space (B, d), scaled to unit vectors where there are no gene components."""
        return space if self.state.components.width else F.normalize(space, dim=1)
