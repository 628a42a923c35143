"""Pseudo-labels: confident predictions become targets for views of the same cells with fewer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.types import Backbone

if TYPE_CHECKING:
    from scfm.head.annotation.classifier import Classifier


def drop_tokens(batch: Batch, cells: Tensor, drop: float) -> Batch:
    """Some of the cells, each without a random part of its tokens; the first token of a cell always stays.

    Positions run without gaps, as if the dropped genes had not been detected.

    Args:
        batch: packed cells; which tokens are dropped depends on ``batch.seed`` alone.
        cells: (B,) bool, the cells to keep.
        drop: share of tokens that are left out.

    Returns:
        The chosen cells.
    """
    generator = torch.Generator(batch.ids.device).manual_seed(batch.seed)
    random = torch.rand(batch.n_tokens, generator=generator, device=batch.ids.device)
    keep = cells[batch.token_cell] & ((random >= drop) | (batch.positions == 0))
    return batch.select_tokens(keep.nonzero().squeeze(1)).select_cells(cells)


def pseudo_label_loss(
    head: Classifier, backbone: Backbone, batch: Batch, logits: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a view with fewer tokens against the confident predictions of the whole cell (FixMatch; JIND).

    L = (1/n) Σ_columns Σ_i 1[y_i missing] · 1[max p_i > c] · CE(logits(view of i), argmax p_i), n the number of terms;
    no gradient flows into p.

    Args:
        head: the classifier.
        backbone: its backbone.
        batch: packed cells, with labels where -1 is missing.
        logits: (B, C) of each column, from the whole cells.

    Returns:
        The loss, 0 where no prediction is confident, and the number of terms n.
    """
    targets = []
    for column, scores in zip(head.columns, logits, strict=True):
        confidence, called = (scores.detach() / column.temperature).softmax(1).max(1)
        confident = (batch.obs[column.label] < 0) & (confidence > head.pseudo_confidence)
        targets.append(torch.where(confident, called, -1))
    used = torch.stack(targets) >= 0
    cells = used.any(0)
    n_terms = used.sum()
    if not cells.any():
        return logits[0].sum() * 0.0, n_terms
    views = head.logits(backbone, drop_tokens(batch, cells, head.token_drop))
    losses = [
        F.cross_entropy(scores, target[cells], ignore_index=-1, reduction="sum")
        for scores, target in zip(views, targets, strict=True)
    ]
    return torch.stack(losses).sum() / n_terms, n_terms
