"""Scores of predicted tokens, beside those of a table of token frequencies."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.types import Metrics

#: Targets that are left out of every sum.
IGNORE = -100


class Score(nn.Module):
    """Sums loss, top-1 and top-10 hits of predictions, and the same of the unigram table.

    The unigram table predicts every token by its share of the training tokens, with one added to each count. It ignores
    the cell, so a pretrained model must be better.

    Args:
        possible: (V,) bool, the tokens that can be a target; others are left out of the predictions.
        token_counts: (V,) int64, or None for no unigram figures.

    Raises:
        ValueError: counts of another length than the vocabulary.
    """

    def __init__(self, possible: np.ndarray, token_counts: np.ndarray | None) -> None:
        super().__init__()
        self.possible: torch.Tensor
        self.register_buffer("possible", torch.from_numpy(possible), persistent=False)
        self.unigram: torch.Tensor | None
        self.register_buffer("unigram", _log_shares(possible, token_counts), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> Metrics:
        """Sums over the targets.

        Args:
            logits: (N, V).
            targets: (N,) token ids, :data:`IGNORE` where there is none.

        Returns:
            ``loss``, ``top1``, ``top10`` (and ``unigram_…`` of each): sums, to be divided by the number of targets.
        """
        real = targets != IGNORE
        ids = targets.clamp(min=0)
        loss = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
        sums = {"loss": loss} | _hits(logits.masked_fill(~self.possible, -torch.inf), ids, real)
        if self.unigram is not None:
            sums["unigram_loss"] = -self.unigram[ids].where(real, 0).sum()
            rank = self.unigram.argsort(descending=True, stable=True).argsort()[ids]
            sums |= {f"unigram_top{k}": ((rank < k) & real).sum() for k in (1, 10)}
        return sums

    def sample(
        self, logits: torch.Tensor, targets: torch.Tensor, batch: Batch, places: torch.Tensor, k: int = 5
    ) -> dict[str, torch.Tensor]:
        """A few predictions in readable form.

        Args:
            logits: (N, V).
            targets: (N,) token ids; those of :data:`IGNORE` are left out.
            batch: the batch of these tokens.
            places: (N,) their places in the row of the batch.
            k: number of guesses for each.

        Returns:
            For each target: ``cell`` (its row in the store), ``rank`` in the cell, ``true`` id, ``guess`` (k ids, best
            first) and ``probability`` (k).
        """
        real = targets != IGNORE
        logits, targets, places = logits[real], targets[real], places[real]
        shares = logits.float().masked_fill(~self.possible, -torch.inf).softmax(-1)
        probability, guess = shares.topk(min(k, shares.shape[1]), dim=-1)
        cell = torch.searchsorted(batch.boundaries.long(), places, right=True) - 1
        return {
            "cell": batch.index[cell],
            "rank": batch.positions[places],
            "true": targets,
            "guess": guess,
            "probability": probability,
        }


def _hits(scores: torch.Tensor, ids: torch.Tensor, real: torch.Tensor) -> Metrics:
    better = (scores > scores.gather(1, ids.unsqueeze(1))).sum(1)
    return {f"top{k}": ((better < k) & real).sum() for k in (1, 10)}


def _log_shares(possible: np.ndarray, counts: np.ndarray | None) -> torch.Tensor | None:
    """Log probability of each token with add-one smoothing, (V,) float32; -inf for tokens that are no targets."""
    if counts is None:
        return None
    if len(counts) != len(possible):
        raise ValueError(f"token_counts has {len(counts)} entries; the vocabulary has {len(possible)} tokens")
    smooth = np.where(possible, np.asarray(counts, dtype=np.float64) + 1, 0)
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(smooth / smooth.sum()).astype(np.float32))
