"""Integration by micro-batches that hold a single experimental batch, so that no contrast rewards batch signal."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal, Unpack

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.integration.base import Contrastive, Viewed, check_positive, check_shares, unrest
from scfm.head.integration.contrast import nt_xent
from scfm.head.integration.neighbour import coverage, other_neighbours, own_neighbours
from scfm.head.survey import Survey, scattered
from scfm.head.views import generator_of
from scfm.types import Backbone, Metrics, Sampling, Spec

log = logging.getLogger(__name__)

#: Below this ``p_in``, hard negatives hurt the correction (CONCORD).
FEWEST_IN = 0.95


class ContrastiveSampler(Contrastive):
    """Two views of each cell attract, other cells of the *same* batch repel (Concerto; CONCORD; heads as SimCLR's).

    L = −1/(2B) Σ_i log[e^{s_ip(i)/T} / (e^{s_ip(i)/T} + Σ_{k∈N(i)} e^{ℓ_ik})] with s the cosine, p(i) the other view
    of i, N(i) all others of i's batch; see :func:`~scfm.head.integration.contrast.contrast` for ℓ and β. Negatives are
    masked by batch as well as sampled by it, so a mixed validation batch is scored by the same rule. No term draws
    batches together: what only tells batches apart is of no use to it, and fades beside what tells cells apart. Where
    cells are of few distinct kinds, repelling them all alike tears the kinds: ``stay`` times
    :func:`~scfm.head.integration.base.unrest` of the views holds them.

    Args:
        spec: what only the run knows.
        mode: ``hcl`` draws the cells of a batch at random and weighs hard negatives; ``knn`` draws neighbours
            together, which are hard negatives, and weighs them alike.
        temperature: T.
        hardness: β of mode ``hcl``.
        neighbours: of mode ``knn``: cells drawn with each core.
        p_knn: of mode ``knn``: share of a micro-batch that is neighbours of a core.
        p_in: share of a micro-batch that is of its experimental batch; the others, of other batches, are compared
            with cells of their own batch alone.
        micro_batches: how many of each experimental batch in an epoch: ``proportional`` to its cells, each read once;
            the ``equal`` number, the median of those; or by ``coverage``, the share of all cells that are among the
            ``neighbours`` nearest of one of its cells.
        **viewed: see :class:`~scfm.head.integration.base.Contrastive`.

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
        neighbours: int = 30,
        p_knn: float = 0.3,
        p_in: float = 1.0,
        micro_batches: Literal["proportional", "equal", "coverage"] = "proportional",
        **viewed: Unpack[Viewed],
    ) -> None:
        super().__init__(spec, **viewed)
        if mode not in ("hcl", "knn"):
            raise ValueError(f"head.mode={mode!r}; expected hcl or knn")
        if micro_batches not in ("proportional", "equal", "coverage"):
            raise ValueError(f"head.micro_batches={micro_batches!r}; expected proportional, equal or coverage")
        check_positive(temperature=temperature, neighbours=neighbours, p_in=p_in)
        check_shares(p_knn=p_knn, p_in=p_in)
        self.mode, self.temperature = mode, temperature
        self.hardness = hardness if mode == "hcl" else 0.0
        self.neighbours, self.p_knn = neighbours, p_knn
        if p_in < FEWEST_IN and self.hardness > 0:
            log.warning(
                "head.p_in=%g with hard negatives hurts the correction of batch effects: keep it at %g or more, or set "
                "head.hardness=0",
                p_in,
                FEWEST_IN,
            )
        self.sampling = Sampling(by=self.batch_key, micro_batches=micro_batches, inside=p_in)

    def prepare(self, survey: Survey) -> None:
        """Find neighbours before training: in mode ``knn`` each cell's, for ``coverage`` each batch's."""
        super().prepare(survey)
        rows, embedding = survey.rows[survey.train], self.state.space(survey)[survey.train]
        batches, choice = survey.obs[self.batch_key][survey.train], self.sampling
        assert choice is not None, "set by __init__"
        if self.mode == "knn":
            near = own_neighbours(embedding, batches, self.neighbours)
            if choice.inside < 1:
                near = np.concatenate([near, other_neighbours(embedding, batches, self.neighbours)], axis=1)
            table = scattered(rows, np.where(near < 0, -1, rows[near]))
            choice = replace(choice, neighbours=table, share=self.p_knn, companions=self.neighbours)
        if choice.micro_batches == "coverage":
            choice = replace(choice, coverage=coverage(embedding, batches, len(self.names), self.neighbours))
        self.sampling = choice

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, and ``accuracy``: how often the other view is nearer than every negative."""
        generator, codes = generator_of(batch), batch.obs[self.batch_key]
        (one, shift), (two, _) = (self.place(self.state(backbone, self.views(batch, generator))) for _ in range(2))
        loss, accuracy = self.loss(F.normalize(one, dim=1), F.normalize(two, dim=1), codes)
        return {"loss": loss + self.stay * unrest(one - shift, shift, codes), "accuracy": accuracy}

    def loss(self, one: Tensor, two: Tensor, batches: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of two views, (B, d) unit vectors each, with batch codes (B,)."""
        return nt_xent(one, two, batches, temperature=self.temperature, hardness=self.hardness)
