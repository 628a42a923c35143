"""Integration by a learned vector of the experimental batch, which the backbone may use so that the cell need not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.integration.base import Contrastive, check_positive, check_shares
from scfm.head.integration.contrast import contrast, nt_xent, same_batch
from scfm.head.pool import embed
from scfm.head.view import Views, cells_of, generator_of
from scfm.types import Backbone, Batch, Metrics, Sampling, Spec

#: Batch code of an empty place of the queue; like no cell's.
EMPTY = -2


class BatchToken(Contrastive):
    """A vector e_b is added to every token embedding of batch b (Fugue; scPoli's sample embeddings).

    With probability ``null`` a view has a trained null row in its place, so that the null row is an input the network
    knows and new cells of any batch can be projected with it. (Fugue projects without a vector, which its network
    never saw, and augments one view only.) The loss is NT-Xent with negatives of the cell's own batch, or, with a
    queue, MoCo's (He et al. 2020): L = −log e^{q·k⁺/T} / (e^{q·k⁺/T} + Σ_queue e^{q·k/T}), both directions, over
    queued keys of the query's batch. Keys pass a projector that follows by momentum; the backbone itself has no second
    copy, so keys age by at most queue/B steps.

    Args:
        spec: what only the run knows.
        batch_key: obs column of the experimental batches.
        condition: obs column whose effect should survive; only for a warning.
        size: width of the integrated space.
        hidden: width of the projector's hidden layer; 0 for a linear one.
        null_share: probability of the null row, for each view.
        temperature: T.
        queue: keys kept for MoCo, some 5 % of the cells; 0 contrasts inside the micro-batch.
        momentum: of the key projector.
        drop: see :class:`~scfm.head.view.Views`.
        jitter: likewise.
        context: likewise.

    Attributes:
        rows: (batches + 1, D) the vectors; the last is the null row.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    needs: ClassVar[str] = (
        "genes alone: cells of unseen batches pass with the trained null row; adopt() trains a row for a new "
        "batch and leaves all else, nearest_row() picks a known one"
    )
    rows: nn.Parameter
    keys: Tensor
    key_batches: Tensor
    turn: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        batch_key: str,
        condition: str | None = None,
        size: int = 64,
        hidden: int = 256,
        null_share: float = 0.2,
        temperature: float = 0.2,
        queue: int = 0,
        momentum: float = 0.999,
        drop: float = 0.2,
        jitter: float = 2.0,
        context: float = 0.5,
    ) -> None:
        super().__init__(spec, batch_key=batch_key, condition=condition, size=size, hidden=hidden)
        check_positive(temperature=temperature, null_share=null_share)
        check_shares(null_share=null_share, momentum=momentum)
        if queue < 0:
            raise ValueError(f"head.queue={queue}; expected a number of keys, 0 for none")
        self.null_share, self.temperature, self.queue, self.momentum = null_share, temperature, queue, momentum
        self.views = Views(spec.vocab, drop=drop, jitter=jitter, context=context)
        self.sampling = Sampling(by=batch_key)
        self.rows = nn.Parameter(0.02 * torch.randn(len(self.names) + 1, spec.width))
        if queue:
            self.follower = deepcopy(self.projector).requires_grad_(False)
            self.register_buffer("keys", F.normalize(torch.randn(queue, size), dim=1))
            self.register_buffer("key_batches", torch.full((queue,), EMPTY))
            self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often the other view is nearer than every negative."""
        generator, codes = generator_of(batch), batch.obs[self.batch_key]
        views = [self.views(batch, generator) for _ in range(2)]
        states = [self.states(backbone, view, self._draw(codes, generator)) for view in views]
        one, two = (F.normalize(self.projector(state).float(), dim=1) for state in states)
        if not self.queue:
            loss, accuracy = nt_xent(one, two, codes, temperature=self.temperature)
            return {"loss": loss, "accuracy": accuracy}
        return self._moco((one, two), states, codes)

    def encode(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Unit vectors with the null row, (B, d) float32."""
        return self.encode_with(backbone, batch, self.rows[-1].expand(batch.n_cells, -1))

    def encode_with(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> Tensor:
        """Unit vectors where each cell has the given vector (B, D) as its batch's."""
        return F.normalize(self.projector(self.states(backbone, batch, vectors)).float(), dim=1)

    def states(self, backbone: Backbone, batch: Batch, vectors: Tensor) -> Tensor:
        """Cell embeddings with a vector added to every token embedding of each cell; (B, D) both."""
        with added(backbone, vectors[cells_of(batch)]):
            return embed(backbone, batch, self.vocab)

    def _draw(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """(B, D) each cell's row; the null row by chance and where the batch is missing."""
        drawn = torch.rand(len(codes), generator=generator, device=codes.device) < self.null_share
        return self.rows[torch.where(drawn | (codes < 0), len(self.names), codes)]

    def _moco(self, queries: tuple[Tensor, Tensor], states: list[Tensor], codes: Tensor) -> Metrics:
        with torch.no_grad():
            if self.training:
                for slow, fast in zip(self.follower.parameters(), self.projector.parameters(), strict=True):
                    slow.lerp_(fast, 1 - self.momentum)
            keys = [F.normalize(self.follower(state.detach()).float(), dim=1) for state in states]
        queued, allowed = self.keys.clone(), same_batch(codes, self.key_batches)
        parts = [
            contrast(query, key, queued, allowed, temperature=self.temperature)
            for query, key in zip(queries, reversed(keys), strict=True)
        ]
        if self.training:
            self.enqueue(keys[1], codes)
        loss, accuracy = (torch.stack(values).mean() for values in zip(*parts, strict=True))
        return {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def enqueue(self, keys: Tensor, codes: Tensor) -> None:
        """Put keys (B, d) with their batch codes in the place of the oldest; B need not divide the queue."""
        keys, codes = keys[-self.queue :], codes[-self.queue :]
        places = (self.turn + torch.arange(len(keys), device=keys.device)) % self.queue
        self.keys[places], self.key_batches[places] = keys, codes
        self.turn.copy_((self.turn + len(keys)) % self.queue)

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
            self.encode_with(backbone, self.views(batch, generator), vector.expand(batch.n_cells, -1))
            for vector in vectors
        )
        return nt_xent(one, two, batch.index.new_zeros(batch.n_cells), temperature=self.temperature)[0]


@contextmanager
def added(backbone: Any, vectors: Tensor) -> Iterator[None]:
    """While this lasts, the token embeddings of a packed row have vectors (T, D) added to them."""
    table = backbone.model.get_input_embeddings()
    hook = table.register_forward_hook(lambda module, given, output: output + vectors.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()
