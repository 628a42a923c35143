"""Integration by micro-batches of a single experimental batch, so that the contrast does not reward batch signal."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal, Unpack

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Contrastive, ContrastiveOptions, neighbor_loss
from scfm.head.integration.batch_neighbors import batch_coverage, nearest_cells
from scfm.head.ranges import check_positive, check_shares
from scfm.head.survey import Survey, build_row_table
from scfm.model.contrast import nt_xent
from scfm.types import Backbone, Metrics, Sampling, Spec

log = logging.getLogger(__name__)

#: Below this ``p_in``, hard negatives hurt the correction (CONCORD).
MIN_P_IN = 0.95


class ContrastiveSampler(Contrastive):
    """Two views of a cell attract, other cells of the *same* batch repel (Concerto; CONCORD; projector as in SimCLR).

    L = −1/(2B) Σ_i log[e^{s_ip(i)/T} / (e^{s_ip(i)/T} + Σ_{k∈N(i)} e^{ℓ_ik})] with s the cosine, p(i) the other view
    of i, N(i) all others of i's batch; see :func:`~scfm.model.contrast.contrast` for ℓ and β. Negatives are
    masked by batch as well as sampled by it, so that validation batches of mixed cells are scored by the same rule. No
    term attracts batches to each other: features that separate batches alone do not lower the loss. Where cells are of
    few distinct types, the loss also repels cells of one type; ``neighbor_weight`` times
    :func:`~scfm.head.integration.base.neighbor_loss` of the views limits this.

    Args:
        spec: vocabulary, classes and widths of the run.
        mode: ``hcl`` draws the cells of a batch at random and gives hard negatives more weight; ``knn`` draws
            neighbors together, which are hard negatives, all with the same weight.
        temperature: T.
        hardness: β of mode ``hcl``.
        neighbors: in mode ``knn``, cells drawn with each core cell.
        p_knn: in mode ``knn``, share of a micro-batch that is neighbors of a core cell.
        p_in: share of a micro-batch that is of its experimental batch; cells of other batches are compared with cells
            of their own batch alone.
        micro_batches: number for each experimental batch in an epoch: ``proportional`` to its cells, each read once;
            ``equal``, the median of those numbers; or by ``coverage``, the share of all cells that are among the
            ``neighbors`` nearest of one of its cells.
        **options: see :class:`~scfm.head.integration.base.Contrastive`.

    Raises:
        ValueError: a single batch, an unknown column, or a number out of its range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        mode: Literal["hcl", "knn"] = "hcl",
        temperature: float = 0.4,
        hardness: float = 1.0,
        neighbors: int = 30,
        p_knn: float = 0.3,
        p_in: float = 1.0,
        micro_batches: Literal["proportional", "equal", "coverage"] = "proportional",
        **options: Unpack[ContrastiveOptions],
    ) -> None:
        super().__init__(spec, **options)
        if mode not in ("hcl", "knn"):
            raise ValueError(f"head.mode={mode!r}; expected hcl or knn")
        if micro_batches not in ("proportional", "equal", "coverage"):
            raise ValueError(f"head.micro_batches={micro_batches!r}; expected proportional, equal or coverage")
        check_positive(temperature=temperature, neighbors=neighbors, p_in=p_in)
        check_shares(p_knn=p_knn, p_in=p_in)
        self.mode, self.temperature = mode, temperature
        self.hardness = hardness if mode == "hcl" else 0.0
        self.neighbors, self.p_knn = neighbors, p_knn
        if p_in < MIN_P_IN and self.hardness > 0:
            log.warning(
                "head.p_in=%g with hard negatives hurts the correction of batch effects: set it to %g or more, or set "
                "head.hardness=0",
                p_in,
                MIN_P_IN,
            )
        self.sampling = Sampling(by=self.batch_key, micro_batches=micro_batches, inside=p_in)

    def prepare(self, survey: Survey) -> None:
        """Find the neighbors of each cell (mode ``knn``) and the coverage of each batch, where they are needed."""
        super().prepare(survey)
        rows, embedding = survey.rows[survey.train], self.state.search_space(survey)[survey.train]
        batches, sampling = survey.obs[self.batch_key][survey.train], self.sampling
        assert sampling is not None, "set by __init__"
        if self.mode == "knn":
            sides = [True, False] if sampling.inside < 1 else [True]
            tables = [nearest_cells(embedding, batches, self.neighbors, same_batch=side) for side in sides]
            near = np.concatenate(tables, axis=1)
            table = build_row_table(rows, np.where(near < 0, -1, rows[near]))
            sampling = replace(sampling, neighbors=table, share=self.p_knn, companions=self.neighbors)
        if sampling.micro_batches == "coverage":
            sampling = replace(sampling, coverage=batch_coverage(embedding, batches, len(self.names), self.neighbors))
        self.sampling = sampling

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often the other view is nearer than every negative."""
        codes = batch.obs[self.batch_key]
        one, two, shift = self.place_views(backbone, batch)
        loss, accuracy = self.loss(F.normalize(one, dim=1), F.normalize(two, dim=1), codes)
        return {"loss": loss + self.neighbor_weight * neighbor_loss(one - shift, shift, codes), "accuracy": accuracy}

    def loss(self, one: Tensor, two: Tensor, batches: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of two views, (B, d) unit vectors each, given batch codes (B,)."""
        return nt_xent(one, two, batches, temperature=self.temperature, hardness=self.hardness)
