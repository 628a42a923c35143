"""Integration by triplets: mutual nearest neighbors of different batches attract, cells of one batch repel."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.cell_state import Components
from scfm.head.integration.base import Integration, SharedOptions, neighbor_loss
from scfm.head.integration.batch_neighbors import center_batches, mutual_neighbors, nearest_cells
from scfm.head.ranges import check_not_negative, check_positive, check_shares
from scfm.head.survey import Survey, build_row_table, lookup_rows
from scfm.head.views import batch_generator
from scfm.types import Backbone, Metrics, Sampling, Spec


class Triplet(Integration):
    """INSCT's loss (Simon et al. 2021) with its sampling corrected.

    L = mean max(0, d(a,p) − min(d(a,n), d(p,n)) + 1), d Euclidean; with labels (1−w)·L + w·CE, w = ``weight``; plus
    ``offset_weight`` times :func:`offset_loss`, because L reaches 0 while partners are still apart by up to the margin;
    plus ``neighbor_weight`` times :func:`~scfm.head.integration.base.neighbor_loss` where there are gene components.
    Positives are mutual nearest neighbors for *every* pair of batches, by cosine in the space where training begins,
    after each batch is centered, so that distant batches have partners too. Cells without a mutual neighbor get
    neighbors of their own batch, ``own_batch_share`` times the mean number of mutual ones. Negatives are drawn from the
    anchor's own batch, never from its neighbors, and semi-hard (d_ap < d_an < d_ap + 1) where there are such. (The
    original reads negatives by an index into another matrix, and keeps the neighbors of its last pair of batches only.)

    Args:
        spec: vocabulary, classes and widths of the run.
        width: width of the integrated space.
        gene_components: see :class:`~scfm.head.integration.base.Integration`; neighbors are sought among them, or in
            the embedding where there are none.
        variable_components: see :class:`~scfm.head.integration.base.Integration`.
        neighbors: k of the mutual neighbors; within a batch, at most a quarter of its cells.
        own_batch_share: number of own-batch positives as a share of the mean number of mutual ones.
        label: obs column of known types: cells of one label in different batches are positives too, and the
            cross-entropy is added. Cells without a label are left out.
        weight: w.
        offset_weight: weight of :func:`offset_loss`, the penalty of the remaining batch offset; 0 for none.
        neighbor_weight: weight of the penalty for moving neighbors of a batch apart; 0 for none.
        **options: see :class:`~scfm.head.integration.base.Integration`.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    positives: Tensor
    near: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 10,
        gene_components: int = 10,
        variable_components: Components = 0,
        neighbors: int = 30,
        own_batch_share: float = 0.75,
        label: str | None = None,
        weight: float = 0.3,
        offset_weight: float = 0.6,
        neighbor_weight: float = 2.0,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(
            spec,
            width=width,
            gene_components=gene_components,
            variable_components=variable_components,
            neighbor_weight=neighbor_weight,
            **options,
        )
        check_positive(neighbors=neighbors)
        check_shares(own_batch_share=own_batch_share, weight=weight)
        check_not_negative(offset_weight=offset_weight)
        self.neighbors, self.own_batch_share, self.offset_weight = neighbors, own_batch_share, offset_weight
        self.label, self.weight = label, weight
        if label is not None:
            self.labels, self.learned = (*self.labels, label), (label,)
            self.classifier = nn.Linear(width, len(spec.categories("head.label", label)))
        for name in ("positives", "near"):
            self.register_buffer(name, torch.zeros((0, 1), dtype=torch.int64), persistent=False)

    def prepare(self, survey: Survey) -> None:
        """Find mutual neighbors among the training cells and, for validation, among the others."""
        super().prepare(survey)
        batches, k = survey.obs[self.batch_key], self.neighbors
        space = self.state.search_space(survey)
        positives = np.full((len(survey.rows), k), -1, dtype=np.int64)
        near = np.full((len(survey.rows), k), -1, dtype=np.int64)
        for part in (survey.train, ~survey.train):
            members = np.flatnonzero(part & (batches >= 0))
            if len(members) > 1:
                part_space, part_batches = space[members], batches[members]
                own = keep_nearest_quarter(nearest_cells(part_space, part_batches, k, same_batch=True), part_batches)
                mutual = mutual_neighbors(center_batches(part_space, part_batches), part_batches, k)
                both = fill_positives(mutual, own, self.own_batch_share)
                near[members], positives[members] = map_places(own, members), map_places(both, members)
        row_tables = [np.where(table < 0, -1, survey.rows[table]) for table in (positives, near)]
        tables = [build_row_table(survey.rows, table) for table in row_tables]
        self.positives, self.near = (torch.from_numpy(table) for table in tables)
        self.sampling = Sampling(neighbors=tables[0], share=0.5, companions=1)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``; ``accuracy``: the share of triplets in the right order; ``n_targets``: their number."""
        assert len(self.positives), "prepare(survey) finds the positives before the first step"
        space, shift = self.place(self.state(backbone, batch))
        positive = pair_mask(lookup_rows(self.positives.to(batch.index.device), batch.index), batch.index)
        near = pair_mask(lookup_rows(self.near.to(batch.index.device), batch.index), batch.index)
        codes = batch.obs[self.batch_key]
        offset = offset_loss(space, positive & (codes[:, None] != codes), near)
        if self.label is not None:
            positive |= same_label_pairs(batch.obs[self.label], codes)
        anchors, positives, negatives = draw_triplets(space.detach(), codes, positive, near, batch_generator(batch))
        loss, accuracy = triplet_loss(space, anchors, positives, negatives)
        metrics = {"accuracy": accuracy, "n_targets": loss.new_tensor(len(anchors))}
        if self.label is not None:
            truth = batch.obs[self.label]
            total = F.cross_entropy(self.classifier(space), truth, ignore_index=-1, reduction="sum")
            loss = (1 - self.weight) * loss + self.weight * total / (truth >= 0).sum().clamp(min=1)
        distortion = neighbor_loss(space - shift, shift, codes)
        loss = loss + self.offset_weight * offset + self.neighbor_weight * distortion
        return {"loss": loss, **metrics}


def triplet_loss(space: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of max(0, d(a,p) − min(d(a,n), d(p,n)) + 1), and the share of triplets with d(a,p) < d(a,n).

    Args:
        space: (B, d) cells.
        anchors: (N,) their places in it.
        positives: (N,) places of the positives.
        negatives: (N,) places of the negatives.
    """
    if len(anchors) == 0:
        return space.sum() * 0.0, space.new_zeros(())
    a, p, n = space[anchors], space[positives], space[negatives]
    to_positive, to_negative, between = (F.pairwise_distance(*pair) for pair in ((a, p), (a, n), (p, n)))
    loss = F.relu(to_positive - torch.minimum(to_negative, between) + 1).mean()
    return loss, (to_positive < to_negative).float().mean()


def offset_loss(space: Tensor, partners: Tensor, near: Tensor) -> Tensor:
    """Half the mean squared distance from the mean of a cell's partners to the mean of its neighbors.

    The difference of the two means estimates the batch effect that is left around the cell, as the correction vector of
    mutual nearest neighbors does (Haghverdi et al. 2018). Between batches that differ by chance alone it is 0, up to
    the noise of small samples.

    Args:
        space: (B, d).
        partners: (B, B) bool, row by cell: in other batches; cells without any, or without neighbors, do not count.
        near: (B, B) bool, row by cell: neighbors in its own batch.
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
        near: (B, B) bool, neighbors in the own batch, which are no negatives.
        generator: draws among the candidates.

    Returns:
        Places of anchors, positives and negatives, (N,) each; a negative is always of its anchor's batch.
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


def pair_mask(table: Tensor, rows: Tensor) -> Tensor:
    """Whether cell j's row is among the k rows of cell i's table (B, k); (B, B) bool."""
    order = rows.argsort()
    place = torch.searchsorted(rows[order], table.clamp(min=0)).clamp(max=len(rows) - 1)
    column = order[place]
    present = (rows[column] == table) & (table >= 0)
    hits = torch.zeros(len(rows), len(rows), dtype=torch.int64, device=rows.device)
    return hits.scatter_add_(1, column, present.long()) > 0


def same_label_pairs(labels: Tensor, batches: Tensor) -> Tensor:
    """Pairs of cells of one known label in different batches, (B, B) bool."""
    return (labels[:, None] == labels) & (labels[:, None] >= 0) & (batches[:, None] != batches)


def keep_nearest_quarter(neighbors: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Own-batch neighbors (n, k), at most a quarter of the batch for each cell: the others can be negatives."""
    _, place, counts = np.unique(batches, return_inverse=True, return_counts=True)
    quarter = np.maximum(counts // 4, 1)[place]
    return np.where(np.arange(neighbors.shape[1]) < quarter[:, None], neighbors, -1)


def fill_positives(mutual: np.ndarray, own: np.ndarray, share: float) -> np.ndarray:
    """Mutual neighbors (n, k); rows without any get own-batch neighbors, ``share`` times the mean count."""
    counts = (mutual >= 0).sum(axis=1)
    some = max(1, round(share * counts[counts > 0].mean())) if counts.any() else own.shape[1]
    positives = mutual.copy()
    lone = counts == 0
    positives[lone, :some] = own[lone, :some]
    return positives


def map_places(table: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Replace places among ``members`` in a table by the members themselves; -1 stays."""
    return np.where(table < 0, -1, members[table])
