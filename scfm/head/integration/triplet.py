"""Integration by triplets: mutual nearest neighbours of different batches attract, cells of one batch repel."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Integration, Shared, check_positive, check_shares, unrest
from scfm.head.integration.neighbour import centred, mutual_neighbours, own_neighbours
from scfm.head.survey import Survey, looked_up, scattered
from scfm.head.views import generator_of
from scfm.types import Backbone, Metrics, Sampling, Spec


class Triplet(Integration):
    """INSCT's loss (Simon et al. 2021) with its sampling put right.

    L = mean max(0, d(a,p) − min(d(a,n), d(p,n)) + 1), d Euclidean; with labels (1−w)·L + w·CE, w = ``weight``; plus
    ``meet`` times :func:`offset`, as L is satisfied long before near partners meet; plus ``stay`` times
    :func:`~scfm.head.integration.base.unrest` where there are components to begin at.
    Positives are mutual nearest neighbours for *every* pair of batches, by cosine in the space where training
    begins, each batch centred, so that a batch that lies far off finds its partners too; cells without one get
    neighbours of their own batch, fewer by ``within``. Negatives are drawn from the anchor's own batch at rate 1, never
    from its neighbours, semi-hard (d_ap < d_an < d_ap + 1) where there are such. (The original reads negatives by an
    index into another matrix, and keeps the neighbours of its last pair of batches only.)

    Args:
        spec: what only the run knows.
        size: width of the integrated space.
        genes: linear components of the cell's genes beside the backbone's embedding, where the space begins and
            neighbours are sought; 0 leaves them out and seeks on the embedding.
        neighbours: k of the mutual neighbours; of the own batch, a quarter of its cells at most.
        within: number of own-batch positives as a share of the mean number of mutual ones.
        label: obs column of known types: cells of one label in different batches are positives too, and the
            cross-entropy counts. Missing labels are left out.
        weight: w.
        meet: how much it costs that partners in other batches lie elsewhere than neighbours in the own; 0: nothing.
        stay: how much it costs to tear neighbours of a batch apart; 0: nothing.
        **shared: see :class:`~scfm.head.integration.base.Integration`.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    positives: Tensor
    near: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        size: int = 10,
        genes: int = 10,
        neighbours: int = 30,
        within: float = 0.75,
        label: str | None = None,
        weight: float = 0.3,
        meet: float = 0.6,
        stay: float = 2.0,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(spec, size=size, genes=genes, stay=stay, **shared)
        check_positive(neighbours=neighbours)
        check_shares(within=within, weight=weight)
        if meet < 0:
            raise ValueError(f"head.meet={meet}; expected a weight, 0 or more")
        self.meet = meet
        self.neighbours, self.within, self.label, self.weight = neighbours, within, label, weight
        if label is not None:
            self.labels, self.learned = (*self.labels, label), (label,)
            self.classifier = nn.Linear(size, len(spec.categories("head.label", label)))
        for name in ("positives", "near"):
            self.register_buffer(name, torch.zeros((0, 1), dtype=torch.int64), persistent=False)

    def prepare(self, survey: Survey) -> None:
        """Find mutual neighbours among the training cells, and for validation among the others."""
        super().prepare(survey)
        batches, k = survey.obs[self.batch_key], self.neighbours
        space = self.state.space(survey)
        positives = np.full((len(survey.rows), k), -1, dtype=np.int64)
        near = np.full((len(survey.rows), k), -1, dtype=np.int64)
        for part in (survey.train, ~survey.train):
            members = np.flatnonzero(part & (batches >= 0))
            if len(members) > 1:
                own = nearest_quarter(own_neighbours(space[members], batches[members], k), batches[members])
                mutual = mutual_neighbours(centred(space[members], batches[members]), batches[members], k)
                found = filled(mutual, own, self.within)
                near[members], positives[members] = named(own, members), named(found, members)
        named_rows = [np.where(table < 0, -1, survey.rows[table]) for table in (positives, near)]
        tables = [scattered(survey.rows, table) for table in named_rows]
        self.positives, self.near = (torch.from_numpy(table) for table in tables)
        self.sampling = Sampling(neighbours=tables[0], share=0.5, companions=1)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``; ``accuracy``: the share of triplets in the right order; ``n_targets``: their number."""
        assert len(self.positives), "prepare(survey) finds the positives before the first step"
        space, shift = self.place(self.state(backbone, batch))
        positive = among(looked_up(self.positives.to(batch.index.device), batch.index), batch.index)
        near = among(looked_up(self.near.to(batch.index.device), batch.index), batch.index)
        codes = batch.obs[self.batch_key]
        apart = offset(space, positive & (codes[:, None] != codes), near)
        if self.label is not None:
            positive |= alike(batch.obs[self.label], codes)
        anchors, positives, negatives = draw_triplets(space.detach(), codes, positive, near, generator_of(batch))
        loss, accuracy = triplet_loss(space, anchors, positives, negatives)
        metrics = {"accuracy": accuracy, "n_targets": loss.new_tensor(len(anchors))}
        if self.label is not None:
            truth = batch.obs[self.label]
            total = F.cross_entropy(self.classifier(space), truth, ignore_index=-1, reduction="sum")
            loss = (1 - self.weight) * loss + self.weight * total / (truth >= 0).sum().clamp(min=1)
        loss = loss + self.meet * apart + self.stay * unrest(space - shift, shift, codes)
        return {"loss": loss, **metrics}


def triplet_loss(space: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of max(0, d(a,p) − min(d(a,n), d(p,n)) + 1), and the share of triplets with d(a,p) < d(a,n).

    Args:
        space: (B, d) cells.
        anchors: (N,) their places in it.
        positives: (N,) likewise.
        negatives: (N,) likewise.
    """
    if len(anchors) == 0:
        return space.sum() * 0.0, space.new_zeros(())
    a, p, n = space[anchors], space[positives], space[negatives]
    to_positive, to_negative, between = (F.pairwise_distance(*pair) for pair in ((a, p), (a, n), (p, n)))
    loss = F.relu(to_positive - torch.minimum(to_negative, between) + 1).mean()
    return loss, (to_positive < to_negative).float().mean()


def offset(space: Tensor, partners: Tensor, near: Tensor) -> Tensor:
    """Half the mean squared distance from the mean of a cell's partners to the mean of its neighbours.

    What is left of the batch effect around the cell: its correction vector, as mutual nearest neighbours estimate it
    (Haghverdi et al. 2018). Batches that differ by chance alone have none, but for the noise of small samples.

    Args:
        space: (B, d).
        partners: (B, B) bool, row by cell: in other batches; cells without any, or without neighbours, do not count.
        near: (B, B) bool, likewise: in its own batch.
    """
    known = partners.any(1) & near.any(1)
    if not known.any():
        return space.sum() * 0.0
    there, here = (mask[known].float() for mask in (partners, near))
    apart = there @ space / there.sum(1, keepdim=True) - here @ space / here.sum(1, keepdim=True)
    return apart.square().sum(1).mean() / 2


def draw_triplets(
    space: Tensor, batches: Tensor, positive: Tensor, near: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One triplet for each cell that has a positive and a negative among the others.

    Args:
        space: (B, d) without gradient.
        batches: (B,) batch codes, -1 where missing: such cells are no anchors.
        positive: (B, B) bool, row by anchor.
        near: (B, B) bool, neighbours in the own batch, which are no negatives.
        generator: draws among the possible.

    Returns:
        (N,) places of anchors, positives and negatives; a negative is always of its anchor's batch.
    """
    itself = torch.eye(len(space), dtype=torch.bool, device=space.device)
    own = (batches[:, None] == batches[None, :]) & (batches[:, None] >= 0)
    negative = own & ~near & ~positive & ~itself
    positive = positive & ~itself
    anchors = (positive.any(1) & negative.any(1)).nonzero().squeeze(1)
    if len(anchors) == 0:
        return anchors, anchors, anchors
    ticket = torch.rand(2, len(space), len(space), generator=generator, device=space.device)
    positives = ticket[0].masked_fill(~positive, -1)[anchors].argmax(1)
    distance = torch.cdist(space[anchors], space)
    to_positive = distance.gather(1, positives[:, None])
    semi_hard = (distance > to_positive) & (distance < to_positive + 1)
    preferred = ticket[1][anchors] + semi_hard
    negatives = preferred.masked_fill(~negative[anchors], -1).argmax(1)
    return anchors, positives, negatives


def among(table: Tensor, rows: Tensor) -> Tensor:
    """(B, B) bool: whether cell j's row is among the k rows of cell i's table (B, k)."""
    order = rows.argsort()
    place = torch.searchsorted(rows[order], table.clamp(min=0)).clamp(max=len(rows) - 1)
    column = order[place]
    found = (rows[column] == table) & (table >= 0)
    hits = torch.zeros(len(rows), len(rows), dtype=torch.int64, device=rows.device)
    return hits.scatter_add_(1, column, found.long()) > 0


def alike(labels: Tensor, batches: Tensor) -> Tensor:
    """(B, B) bool: cells of one known label in different batches."""
    return (labels[:, None] == labels) & (labels[:, None] >= 0) & (batches[:, None] != batches)


def nearest_quarter(own: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Own-batch neighbours (n, k) without those beyond a quarter of the batch: the other cells can be negatives."""
    _, place, counts = np.unique(batches, return_inverse=True, return_counts=True)
    quarter = np.maximum(counts // 4, 1)[place]
    return np.where(np.arange(own.shape[1]) < quarter[:, None], own, -1)


def filled(mutual: np.ndarray, own: np.ndarray, share: float) -> np.ndarray:
    """Mutual neighbours (n, k), and for rows without any so many own-batch ones as ``share`` of the mean count."""
    counts = (mutual >= 0).sum(axis=1)
    some = max(1, round(share * counts[counts > 0].mean())) if counts.any() else own.shape[1]
    found = mutual.copy()
    lone = counts == 0
    found[lone, :some] = own[lone, :some]
    return found


def named(table: np.ndarray, members: np.ndarray) -> np.ndarray:
    """A table of places among members as a table of the members themselves; -1 stays."""
    return np.where(table < 0, -1, members[table])
