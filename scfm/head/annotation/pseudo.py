"""Learning from cells without a label: sure predictions become targets for a thinner view of the same cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.types import Backbone, Batch

if TYPE_CHECKING:
    from scfm.head.annotation.classifier import Classifier


def thinner(batch: Batch, cells: Tensor, drop: float) -> Batch:
    """Some of the cells, each without a random part of its tokens; the first token of a cell always stays.

    Ranks close up: positions restart and run on without gaps, as if the dropped genes had not been seen.

    Args:
        batch: packed cells; what is dropped is a function of ``batch.seed``.
        cells: (B,) bool, the cells to keep.
        drop: share of tokens to leave out.

    Returns:
        The chosen cells, shortened.
    """
    generator = torch.Generator(batch.ids.device).manual_seed(batch.seed)
    random = torch.rand(batch.n_tokens, generator=generator, device=batch.ids.device)
    owner = torch.repeat_interleave(torch.arange(batch.n_cells, device=batch.ids.device), batch.lengths)
    keep = cells[owner] & ((random >= drop) | (batch.positions == 0))
    lengths = torch.bincount(owner[keep], minlength=batch.n_cells)[cells]
    ends = lengths.cumsum(0)
    positions = torch.arange(int(keep.sum()), device=batch.ids.device) - torch.repeat_interleave(
        ends - lengths, lengths
    )
    return replace(
        batch,
        ids=batch.ids[keep],
        positions=positions,
        boundaries=F.pad(ends, (1, 0)).to(batch.boundaries.dtype),
        longest=int(lengths.max()) if len(lengths) else 0,
        index=batch.index[cells],
        obs={name: values[cells] for name, values in batch.obs.items()},
        counts=None if batch.counts is None else batch.counts[keep],
    )


def pseudo_label_loss(
    head: Classifier, backbone: Backbone, batch: Batch, logits: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a thinner view against the sure predictions of the whole one (FixMatch; JIND's rule).

    L = (1/n) Σ_columns Σ_i 1[y_i missing] · 1[max p_i > c] · CE(logits(view of i), argmax p_i), n the number of terms;
    no gradient flows into p.

    Args:
        head: the classifier.
        backbone: its backbone.
        batch: packed cells, with labels where -1 is missing.
        logits: (B, C) of each column, from the whole cells.

    Returns:
        The loss, zero where no call is sure, and the number of terms n.
    """
    targets = []
    for column, scores in zip(head.columns, logits, strict=True):
        confidence, called = (scores.detach() / column.temperature).softmax(1).max(1)
        sure = (batch.obs[column.label] < 0) & (confidence > head.pseudo_confidence)
        targets.append(torch.where(sure, called, -1))
    used = torch.stack(targets)
    cells = (used >= 0).any(0)
    n_terms = (used >= 0).sum()
    if not cells.any():
        return logits[0].sum() * 0.0, n_terms
    views = head.logits(backbone, thinner(batch, cells, head.token_drop))
    losses = [
        F.cross_entropy(scores, own[cells], ignore_index=-1, reduction="sum")
        for scores, own in zip(views, targets, strict=True)
    ]
    return torch.stack(losses).sum() / n_terms, n_terms
