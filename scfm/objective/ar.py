"""Next-gene prediction: predict each gene from the more expressed genes of the cell."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from scfm.batch import Batch
from scfm.model.pooling import shorten
from scfm.objective.base import Objective
from scfm.objective.chunked import chunk_size, chunked_loss
from scfm.objective.score import IGNORE, Score
from scfm.objective.tables import Tables
from scfm.types import Backbone, Metrics, Spec


class AR(Objective):
    """GPT's causal language modeling on ranked genes (tGPT: Shen et al. 2023).

    Each token predicts the next one of its own cell: the first token of a cell is no target, the eos token is one. The
    loss is computed in chunks, so that the scores of all tokens are never in memory at once.

    Args:
        spec: vocabulary of the run, and its ``token_counts`` for the unigram table of the evaluation.
        chunk: tokens scored at once; by default 512 on a CPU and 4096 on a GPU.

    Raises:
        ValueError: a chunk below 1.
    """

    causal: ClassVar[bool | None] = True

    def __init__(self, spec: Spec, *, chunk: int | None = None) -> None:
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk={chunk}; expected at least 1 token")
        self.chunk = chunk
        vocab = spec.vocab
        # tGPT's vocabulary has clinical words and unused entries, which are no predictions of a gene
        possible = np.isin(np.arange(len(vocab)), [*vocab.gene_ids, vocab.specials.get("eos", -1)])
        self.score = Score(possible, spec.token_counts)
        self.tables = Tables(possible, spec)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """Loss of one batch.

        Args:
            backbone: a causal model.
            batch: packed cells.

        Returns:
            ``loss`` (mean over the targets; 0 where there is none) and ``n_targets``; in evaluation also ``top1``,
            ``top10`` and, where the spec has token counts, ``unigram_loss``, ``unigram_top1``, ``unigram_top10``, and
            those of the other :class:`~scfm.objective.tables.Tables` (``clusters_loss``, ``neighbors_loss``).
        """
        batch = shorten(backbone, batch)
        hidden, targets = backbone(batch)[:-1], next_tokens(batch)
        n_targets = (targets != IGNORE).sum()
        if self.training:
            sums = {"loss": chunked_loss(backbone, hidden, targets, self.chunk)}
        else:
            sums = self._score(backbone, hidden, targets)
            places = torch.arange(len(targets), device=targets.device)
            sums |= self.tables(batch, self.score.possible[batch.ids], places, targets, prefix=True)
        means = {name: value / n_targets.clamp(min=1) for name, value in sums.items()}
        return means | {"n_targets": n_targets}

    def sample(self, backbone: Backbone, batch: Batch, n: int = 32) -> dict[str, torch.Tensor]:
        """The first ``n`` predictions of a batch, see :meth:`scfm.objective.score.Score.sample`."""
        batch = shorten(backbone, batch)
        targets = next_tokens(batch)[:n]
        places = torch.arange(1, len(targets) + 1, device=targets.device)
        return self.score.sample(backbone.logits(backbone(batch)[: len(targets)]), targets, batch, places)

    def _score(self, backbone: Backbone, hidden: torch.Tensor, targets: torch.Tensor) -> Metrics:
        chunk = self.chunk or chunk_size(hidden.device)
        sums = self.score(backbone.logits(hidden[:0]), targets[:0])
        for rows, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            part = self.score(backbone.logits(rows), ids)
            sums = {name: total + part[name] for name, total in sums.items()}
        return sums


def next_tokens(batch: Batch) -> torch.Tensor:
    """The target of each token but the row's last: the next token of its cell.

    Args:
        batch: packed cells.

    Returns:
        (T-1,) ids, :data:`~scfm.objective.score.IGNORE` where the next token begins another cell.
    """
    return batch.ids[1:].masked_fill(batch.positions[1:] == 0, IGNORE)
