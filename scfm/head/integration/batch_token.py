"""Integration by a learned vector of the experimental batch, which the backbone may use so that the cell need not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Written
from scfm.head.integration.base import Contrastive, Viewed, check_positive, check_shares, unrest
from scfm.head.integration.contrast import nt_xent
from scfm.head.integration.queue import Follower, KeyQueue
from scfm.head.views import generator_of
from scfm.model.cached import CachedBackbone
from scfm.types import Backbone, Metrics, Sampling, Spec


class Vectored(Viewed, total=False):
    """Arguments of :class:`BatchToken`, with the same default in every head that is one."""

    null_share: float
    temperature: float
    queue: int
    momentum: float


class BatchToken(Contrastive):
    """A vector e_b is added to every token embedding of batch b (Fugue; scPoli's sample embeddings).

    With probability ``null_share`` a view has a trained null row in its place, so that the null row is an input the
    network knows and new cells of any batch can be projected with it. (Fugue projects without a vector, which its
    network never saw, and augments one view only.) The loss is NT-Xent with negatives of the cell's own batch:

    L = −1/(2B) Σ_i log[e^{s_ip(i)/T} / (e^{s_ip(i)/T} + Σ_{k∈N(i)} e^{s_ik/T})]

    With a ``queue``, training is by MoCo: the negatives are earlier keys of the cell's own batch, and keys come from
    weights that follow the trained ones slowly; validation stays NT-Xent. It costs another pass without gradient.

    Args:
        spec: what only the run knows.
        null_share: probability of the null row, for each view.
        temperature: T.
        queue: keys that are kept, about 5 % of the cells; 0: none, negatives are the cells of the micro-batch.
        momentum: share of the key network's weights that a micro-batch leaves as they are.
        **viewed: see :class:`~scfm.head.integration.base.Contrastive`.

    Attributes:
        rows: (batches + 1, D) the vectors; the last is the null row.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    projection: ClassVar[str] = (
        "genes alone: cells of unseen batches pass with the trained null row; adopt() trains a row for a new "
        "batch and leaves all else, nearest_row() picks a known one"
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
        **viewed: Unpack[Viewed],
    ) -> None:
        super().__init__(spec, **viewed)
        check_positive(temperature=temperature, null_share=null_share)
        check_shares(null_share=null_share, momentum=momentum)
        if queue < 0:
            raise ValueError(f"head.queue={queue}; expected a number of keys, 0 for no queue")
        self.null_share, self.temperature = null_share, temperature
        self.sampling = Sampling(by=self.batch_key)
        self.queue = KeyQueue(queue, self.size) if queue else None
        self.follower = Follower(momentum)
        self.rows = nn.Parameter(0.02 * torch.randn(len(self.names) + 1, spec.width))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often the other view is nearer than every negative."""
        return self.contrasted(backbone, batch)[0]

    def contrasted(self, backbone: Backbone, batch: Batch) -> tuple[Metrics, Tensor]:
        """What :meth:`forward` gives, and where one view of each cell lies, (B, d)."""
        generator, codes = generator_of(batch), batch.obs[self.batch_key]
        one, two = (self.views(batch, generator) for _ in range(2))
        drawn = [self._draw(codes, generator) for _ in range(2)]
        space, shift = self.place_with(backbone, one, self.rows[drawn[0]])
        query = F.normalize(space, dim=1)
        if self.queue is not None and self.training:
            loss, accuracy = self._against_queue(backbone, query, two, drawn[1], codes)
        else:
            other = F.normalize(self.place_with(backbone, two, self.rows[drawn[1]])[0], dim=1)
            loss, accuracy = nt_xent(query, other, codes, temperature=self.temperature)
        return {"loss": loss + self.stay * unrest(space - shift, shift, codes), "accuracy": accuracy}, space

    def write(self, outputs: Arrays) -> Written:
        """Beside the integrated space ``sample_embeddings``, (batches, D): the vectors of the batches."""
        return super().write(outputs) | Written(uns={"sample_embeddings": self.rows[:-1].detach().cpu().numpy()})

    def _against_queue(
        self, backbone: Any, query: Tensor, other: Batch, drawn: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a view against the key of the other and the queue, which then takes the keys."""
        assert self.queue is not None
        network = [*backbone.parameters(), *self.parameters()]
        self.follower.update(network)
        with self.follower.in_place(network):
            keys = F.normalize(self.place_with(backbone, other, self.rows[drawn])[0], dim=1)
        found = self.queue.loss(query, keys, codes, temperature=self.temperature)
        self.queue.add(keys, codes)
        return found

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The integrated space with the null row, (B, d) float32; unit vectors where it has no gene components."""
        return self.encode_with(backbone, batch, self.rows[-1].expand(batch.n_cells, -1))

    def encode_with(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> Tensor:
        """The same where each cell has the given vector (B, D) as its batch's: added to all its tokens."""
        return self.finished(self.place_with(backbone, batch, vectors)[0])

    def place_with(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Where cells with these vectors lie, and their shift, (B, d) each; see :meth:`place`."""
        with added(backbone, vectors[self.view(batch).token_cell]):
            return self.place(self.state(backbone, batch))

    def _draw(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) the place of each cell's row; the null row's by chance and where the batch is missing."""
        drawn = torch.rand(len(codes), generator=generator, device=codes.device) < self.null_share
        return torch.where(drawn | (codes < 0), len(self.names), codes)

    def adopt(self, backbone: Backbone, batches: Iterable[Batch], *, epochs: int = 5, rate: float = 1e-2) -> Tensor:
        """Surgery: train one new row on the cells of an unseen batch, with all else frozen.

        Args:
            backbone: as it was fine-tuned; not changed.
            batches: its cells, read once an epoch.
            epochs: how often.
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
        """Name of the known batch whose row gives the cells of a new batch the least loss."""
        cells = list(batches)
        losses = [
            sum(float(self._loss_with(backbone, batch, row, batch.seed)) for batch in cells) for row in self.rows[:-1]
        ]
        return self.names[min(range(len(losses)), key=losses.__getitem__)]

    def _loss_with(self, backbone: Backbone, batch: Batch, row: Tensor, seed: int) -> Tensor:
        """NT-Xent of cells that all are of one batch with the given row: its view against the null row's."""
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
def added(backbone: Any, vectors: Tensor) -> Iterator[None]:
    """While this lasts, the token embeddings of a packed row have vectors (T, D) added to them.

    A cached backbone knows a batch by its tokens, which do not show the vectors: it forgets before and after.
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
