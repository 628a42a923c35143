"""Learning from cells without a label: sure predictions become targets for a thinner view of the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.types import Backbone

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
    keep = cells[batch.token_cell] & ((random >= drop) | (batch.positions == 0))
    return batch.select_tokens(keep.nonzero().squeeze(1)).select_cells(cells)


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
