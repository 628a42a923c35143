"""Masked gene modeling: mask genes of a cell and predict them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from scfm.batch import Batch
from scfm.model.pooling import shorten
from scfm.objective.base import Objective
from scfm.objective.chunked import chunked_loss
from scfm.objective.score import IGNORE, Score
from scfm.objective.tables import Tables
from scfm.types import Backbone, Metrics, Spec


class MLM(Objective):
    """BERT's masked language modeling on ranked genes (Devlin et al. 2019; Theodoris et al. 2023).

    A share of the genes of every packed row is drawn without replacement. Of these, some become the mask token, some a
    random gene, the rest stay, and the model predicts the original genes. In evaluation all of them become the mask
    token: naming a gene that was left standing is copying. Only genes are drawn, and only genes replace them. The
    number of drawn genes depends on the sizes of the batch alone, so that a GPU need not wait for a count, and the draw
    depends on ``batch.seed`` alone. The vocabulary is scored at the drawn positions only.

    Args:
        spec: vocabulary of the run, and its ``token_counts`` for the unigram table of the evaluation.
        mask_fraction: share of the genes that are predicted.
        mask_share: share of these that become the mask token.
        random_share: share of these that become a random gene; the rest are unchanged.
        upstream_compat: draw as the published training of Geneformer does: any token but pad and mask may be drawn, and
            random replacements come from the whole vocabulary, specials included.

    Raises:
        ValueError: shares outside 0 to 1, a vocabulary without a mask token or without genes.
    """

    causal: ClassVar[bool | None] = False

    def __init__(
        self,
        spec: Spec,
        *,
        mask_fraction: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        upstream_compat: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < mask_fraction <= 1:
            raise ValueError(f"mask_fraction={mask_fraction}; expected a share above 0, at most 1")
        if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
            raise ValueError(f"mask_share={mask_share} and random_share={random_share}; expected shares of sum <= 1")
        vocab = spec.vocab
        self.mask_id = vocab.special("mask")
        self.mask_fraction, self.mask_share, self.random_share = mask_fraction, mask_share, random_share
        drawn = vocab.gene_ids
        if upstream_compat:
            drawn = np.setdiff1d(np.arange(len(vocab)), [vocab.specials.get("pad", -1), self.mask_id])
        if not len(drawn):
            raise ValueError(f"the vocabulary of {len(vocab)} tokens has no gene to predict")
        possible = np.isin(np.arange(len(vocab)), drawn)
        replacements = np.arange(len(vocab)) if upstream_compat else drawn
        self.replacements: torch.Tensor
        self.register_buffer("replacements", torch.from_numpy(replacements), persistent=False)
        self.score = Score(possible, spec.token_counts)
        self.tables = Tables(possible, spec)
        #: Tokens of each cell that are never drawn: one of each of these roles, where the vocabulary has it.
        self.fixed = 0 if upstream_compat else len({"cls", "bos", "eos"} & vocab.specials.keys())

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """Loss of one batch.

        Args:
            backbone: a bidirectional model.
            batch: packed cells.

        Returns:
            ``loss`` (mean over the targets; 0 where there is none) and ``n_targets``; in evaluation also ``top1``,
            ``top10`` and, where the spec has token counts, ``unigram_loss``, ``unigram_top1``, ``unigram_top10``, and
            those of the other :class:`~scfm.objective.tables.Tables` (``clusters_loss``, ``neighbors_loss``).
        """
        masked, picked, targets = self.mask(shorten(backbone, batch))
        found = self.compare(backbone, backbone(masked)[picked], targets)
        if self.training:
            return found
        sums = self.tables(masked, self.score.possible[masked.ids], picked, targets, prefix=False)
        return found | {name: value / found["n_targets"].clamp(min=1) for name, value in sums.items()}

    def compare(self, backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor) -> Metrics:
        """The same from the states (N, D) at the drawn positions and the original ids (N,)."""
        n_targets = (targets != IGNORE).sum()
        if self.training:
            sums = {"loss": chunked_loss(backbone, hidden, targets)}
        else:
            sums = self.score(backbone.logits(hidden), targets)
        means = {name: value / n_targets.clamp(min=1) for name, value in sums.items()}
        return means | {"n_targets": n_targets}

    def sample(self, backbone: Backbone, batch: Batch, n: int = 32) -> dict[str, torch.Tensor]:
        """The first ``n`` predictions of a batch, see :meth:`scfm.objective.score.Score.sample`."""
        batch = shorten(backbone, batch)
        masked, picked, targets = self.mask(batch)
        picked, targets = picked[:n], targets[:n]
        return self.score.sample(backbone.logits(backbone(masked)[picked]), targets, batch, picked)

    def predicted_share(self) -> float:
        """Share of the genes that are predicted."""
        return self.mask_fraction

    def mask(self, batch: Batch) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """Draw the genes to predict and mask them.

        Args:
            batch: packed cells.

        Returns:
            The batch with replaced ids; (N,) the drawn positions, ascending; (N,) the original ids,
            :data:`~scfm.objective.score.IGNORE` where the row has fewer genes than positions to draw.
        """
        device = batch.ids.device
        generator = torch.Generator(device).manual_seed(batch.seed)
        possible = self.score.possible[batch.ids]
        drawn = max(1, round(self.mask_fraction * (batch.n_tokens - self.fixed * batch.n_cells)))
        ticket = torch.rand(batch.n_tokens, generator=generator, device=device).masked_fill(~possible, 2.0)
        picked = ticket.argsort(stable=True)[:drawn].sort().values
        real = possible[picked]
        before = batch.ids[picked]
        draw = torch.rand(len(picked), generator=generator, device=device)
        lot = torch.randint(len(self.replacements), (len(picked),), generator=generator, device=device)
        masks, random = (self.mask_share, self.random_share) if self.training else (1.0, 0.0)
        after = self.replacements[lot].where(draw < masks + random, before)
        after = after.masked_fill(draw < masks, self.mask_id).where(real, before)
        masked = batch.replace_tokens(batch.ids.index_copy(0, picked, after))
        return masked, picked, before.masked_fill(~real, IGNORE)
