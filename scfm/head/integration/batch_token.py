"""Integration by a learned vector of the experimental batch, added to the input of the backbone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Written
from scfm.head.integration.base import Contrastive, ContrastiveOptions, neighbor_loss
from scfm.head.integration.queue import Follower, KeyQueue
from scfm.head.ranges import check_positive, check_shares
from scfm.head.views import batch_generator
from scfm.model.cached import CachedBackbone
from scfm.model.contrast import nt_xent
from scfm.types import Backbone, Metrics, Sampling, Spec

log = logging.getLogger(__name__)


class BatchTokenOptions(ContrastiveOptions, total=False):
    """Arguments of :class:`BatchToken` with the same default in every head derived from it."""

    null_share: float
    temperature: float
    queue: int
    momentum: float


class BatchToken(Contrastive):
    """A vector e_b is added to every token embedding of batch b (Fugue; scPoli's sample embeddings).

    With probability ``null_share`` a view has a trained null row instead, so that the network is trained for the input
    with which new cells of any batch are projected. (Fugue projects without a vector, an input that its network is not
    trained for, and augments one view only.) The loss is NT-Xent with negatives of the cell's own batch:

    L = −1/(2B) Σ_i log[e^{s_ip(i)/T} / (e^{s_ip(i)/T} + Σ_{k∈N(i)} e^{s_ik/T})]

    With a ``queue``, training is by MoCo: the negatives are earlier keys of the cell's own batch, and keys are computed
    with a moving average of the trained weights, in another pass without gradient. Validation stays NT-Xent.

    Args:
        spec: vocabulary, classes and widths of the run.
        null_share: probability of the null row, for each view.
        temperature: T.
        queue: number of keys that are kept, at least the cells of a micro-batch times the number of batches, because
            micro-batches are of one batch each, and cells without a key of their batch have no negatives. 0 for no
            queue: negatives are the cells of the micro-batch.
        momentum: share of the key network's weights that a micro-batch leaves unchanged.
        **options: see :class:`~scfm.head.integration.base.Contrastive`.

    Attributes:
        rows: (batches + 1, D) the vectors; the last is the null row.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass with the trained null row; adopt() trains a row for a new "
        "batch and nothing else, nearest_row() picks a known one"
    )
    rows: nn.Parameter

    def __init__(
        self,
        spec: Spec,
        *,
        null_share: float = 0.2,
        temperature: float = 0.2,
        queue: int = 0,
        momentum: float = 0.999,
        **options: Unpack[ContrastiveOptions],
    ) -> None:
        super().__init__(spec, **options)
        check_positive(temperature=temperature, null_share=null_share)
        check_shares(null_share=null_share, momentum=momentum)
        if queue < 0:
            raise ValueError(f"head.queue={queue}; expected a number of keys, 0 for no queue")
        self.null_share, self.temperature = null_share, temperature
        self.sampling = Sampling(by=self.batch_key)
        self.queue = KeyQueue(queue, self.width) if queue else None
        self.follower = Follower(momentum)
        self._queue_is_checked = False
        self.rows = nn.Parameter(0.02 * torch.randn(len(self.names) + 1, spec.width))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often the other view is nearer than every negative.

        In training with a queue also ``with_negatives``, the share of cells with a key of their own batch in the queue.
        """
        return self.compute_contrast(backbone, batch)[0]

    def compute_contrast(self, backbone: Backbone, batch: Batch) -> tuple[Metrics, Tensor]:
        """The metrics of :meth:`forward`, and the position of one view of each cell, (B, d)."""
        generator, codes = batch_generator(batch), batch.obs[self.batch_key]
        one, two = (self.views(batch, generator) for _ in range(2))
        drawn = [self._draw(codes, generator) for _ in range(2)]
        space, shift = self.place_with(backbone, one, self.rows[drawn[0]])
        query = F.normalize(space, dim=1)
        metrics: Metrics = {}
        if self.queue is not None and self.training:
            self._check_queue(batch.n_cells)
            metrics["with_negatives"] = self.queue.share_with_negatives(codes)
            loss, accuracy = self._against_queue(backbone, query, two, drawn[1], codes)
        else:
            other = F.normalize(self.place_with(backbone, two, self.rows[drawn[1]])[0], dim=1)
            loss, accuracy = nt_xent(query, other, codes, temperature=self.temperature)
        loss = loss + self.neighbor_weight * neighbor_loss(space - shift, shift, codes)
        return {"loss": loss, "accuracy": accuracy, **metrics}, space

    def write(self, outputs: Arrays) -> Written:
        """The integrated space, and ``sample_embeddings`` (batches, D), the vectors of the batches."""
        return super().write(outputs) | Written(uns={"sample_embeddings": self.rows[:-1].detach().cpu().numpy()})

    def _check_queue(self, n_cells: int) -> None:
        """Warn once of a queue that is too short to hold keys of every batch.

        Args:
            n_cells: cells of a micro-batch.
        """
        assert self.queue is not None
        length, enough = len(self.queue.keys), n_cells * len(self.names)
        if length < enough and not self._queue_is_checked:
            log.warning(
                "head.queue=%d is too short: micro-batches of one batch with about %d cells fill it, so that cells "
                "often find no key of their own batch and have a loss of 0 (see the metric with_negatives); set "
                "head.queue=%d or more, or head.queue=0",
                length,
                n_cells,
                enough,
            )
        self._queue_is_checked = True

    def _against_queue(
        self, backbone: Any, query: Tensor, other: Batch, drawn: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a view against the key of the other view and the queue, to which the keys are added."""
        assert self.queue is not None
        network = [*backbone.parameters(), *self.parameters()]
        self.follower.update(network)
        with self.follower.swap_in(network):
            keys = F.normalize(self.place_with(backbone, other, self.rows[drawn])[0], dim=1)
        loss, accuracy = self.queue.loss(query, keys, codes, temperature=self.temperature)
        self.queue.add(keys, codes)
        return loss, accuracy

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space with the null row, (B, d) float32; unit vectors where there are no gene components."""
        return self.encode_with(backbone, batch, self.rows[-1].expand(batch.n_cells, -1))

    def encode_with(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> Tensor:
        """The integrated space, (B, d) float32, with the given vectors (B, D) as those of the cells' batches."""
        return self.finalize(self.place_with(backbone, batch, vectors)[0])

    def place_with(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and shifts of cells with these vectors (B, D), (B, d) each; see :meth:`place`."""
        with add_vectors(backbone, vectors[self.view(batch).token_cell]):
            return self.place(self.state(backbone, batch))

    def _draw(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Index of each cell's row, (B,): the null row's by chance and where the batch is missing."""
        drawn = torch.rand(len(codes), generator=generator, device=codes.device) < self.null_share
        return torch.where(drawn | (codes < 0), len(self.names), codes)

    def adopt(self, backbone: Backbone, batches: Iterable[Batch], *, epochs: int = 5, rate: float = 1e-2) -> Tensor:
        """Train one new row on the cells of an unseen batch, with all else frozen.

        Args:
            backbone: the fine-tuned backbone; not changed.
            batches: the cells of the new batch, read once an epoch.
            epochs: number of passes.
            rate: learning rate of Adam.

        Returns:
            (D,) the row, for :meth:`encode_with`.
        """
        cells = list(batches)
        row = self.rows[-1].detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([row], lr=rate)
        for epoch in range(epochs):
            for batch in cells:
                loss = self._loss_with(backbone, batch, row, batch.seed + epoch)
                (row.grad,) = torch.autograd.grad(loss, [row])
                optimizer.step()
        return row.detach()

    @torch.no_grad()
    def nearest_row(self, backbone: Backbone, batches: Iterable[Batch]) -> str:
        """Name of the known batch whose row gives the smallest loss on the cells of a new batch."""
        cells = list(batches)
        losses = [
            sum(float(self._loss_with(backbone, batch, row, batch.seed)) for batch in cells) for row in self.rows[:-1]
        ]
        return self.names[min(range(len(losses)), key=losses.__getitem__)]

    def _loss_with(self, backbone: Backbone, batch: Batch, row: Tensor, seed: int) -> Tensor:
        """NT-Xent of cells of one batch: a view with the given row against a view with the null row."""
        generator = torch.Generator(batch.ids.device).manual_seed(seed)
        vectors = (row, self.rows[-1].detach())
        one, two = (
            F.normalize(
                self.place_with(backbone, self.views(batch, generator), vector.expand(batch.n_cells, -1))[0], dim=1
            )
            for vector in vectors
        )
        return nt_xent(one, two, batch.index.new_zeros(batch.n_cells), temperature=self.temperature)[0]


@contextmanager
def add_vectors(backbone: Any, vectors: Tensor) -> Iterator[None]:
    """Add vectors (T, D) to the token embeddings of a packed row, within a ``with`` block.

    A cached backbone identifies a batch by its tokens, which do not depend on the vectors: the cache is cleared before
    and after.
    """
    forget = backbone.forget if isinstance(backbone, CachedBackbone) else lambda: None
    forget()
    table = backbone.model.get_input_embeddings()
    hook = table.register_forward_hook(lambda module, given, output: output + vectors.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
        forget()
