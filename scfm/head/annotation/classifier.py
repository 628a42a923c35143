"""Cell types from cell embeddings by a linear layer or a small network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.annotation.label_layer import Column
from scfm.head.annotation.levels import Levels
from scfm.head.annotation.pseudo import pseudo_label_loss
from scfm.head.base import Arrays, Head, Outputs, Written
from scfm.head.cell_state import CellState
from scfm.head.survey import Survey
from scfm.metrics.classification import scores
from scfm.types import Backbone, Metrics, Spec


class Classifier(Head):
    """Names the class of each cell, for one or several label columns at once.

    Where the backbone reads a cell in depth, ``genes`` components of its ranked genes stand beside (a wide and a deep
    path, Cheng et al. 2016). A linear classifier begins at the logistic regression of both (a head that starts at
    random first spoils the pretrained weights, Kumar et al. 2022) and ends at that of what they have become. The loss
    is the sum over the columns of the weighted cross-entropy of their labelled cells. Where labels are missing, cells
    can take part through pseudo-labels (:mod:`scfm.head.annotation.pseudo`). Metrics and outputs of the first column
    have plain names, those of the others end in ``/column``.

    Args:
        spec: classes, their counts, width, vocabulary.
        label: obs column, or several.
        levels: the columns go from broad to fine, each class inside one of the column before; calls then agree
            (:class:`~scfm.head.annotation.levels.Levels`).
        genes: linear components of the cell's genes beside the embedding; 0 leaves them out.
        counts: the components are of log-normalised counts instead of ranks; the store has to keep counts.
        context: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        probe: begin at a logistic regression on the frozen backbone and end at one on the tuned; without effect where
            there is a hidden layer.
        hidden: width of a hidden layer; 0 for a linear classifier.
        dropout: before each linear layer.
        class_weights: weigh the classes inversely to their frequency, within a factor of ten.
        reject: share of correct calls that calibration may turn into ``unknown``.
        pseudo_weight: weight of the pseudo-label loss of unlabelled cells; 0 leaves it out.
        pseudo_confidence: only calls at least this sure become pseudo-labels.
        token_drop: share of tokens left out of the view that learns from a pseudo-label.

    Raises:
        ValueError: no such column, fewer than two classes, no labelled cell, or a number out of its range.
    """

    metric: ClassVar[str] = "macro_f1"
    columns: Sequence[Column]

    def __init__(
        self,
        spec: Spec,
        *,
        label: str | list[str],
        levels: bool = False,
        genes: int = 64,
        counts: bool = False,
        context: int | None = None,
        probe: bool = True,
        hidden: int = 0,
        dropout: float = 0.1,
        class_weights: bool = True,
        reject: float = 0.05,
        pseudo_weight: float = 0.0,
        pseudo_confidence: float = 0.9,
        token_drop: float = 0.2,
    ) -> None:
        super().__init__()
        self.counts = counts
        shares = {
            "dropout": dropout,
            "reject": reject,
            "pseudo_confidence": pseudo_confidence,
            "token_drop": token_drop,
        }
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ValueError(f"head.{name}={value}; expected a share, 0 <= {name} < 1")
        self.labels = (label,) if isinstance(label, str) else tuple(label)
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"head.label={list(self.labels)}; expected one obs column or several different ones")
        self.state = CellState(spec, genes, context, score="counts" if counts else "log")
        self.probe, self.reject = probe, reject
        self.pseudo_weight, self.pseudo_confidence, self.token_drop = pseudo_weight, pseudo_confidence, token_drop
        self.columns = nn.ModuleList(  # type: ignore[assignment]
            Column(spec, name, self.state.width, hidden=hidden, dropout=dropout, class_weights=class_weights)
            for name in self.labels
        )
        self.levels = Levels(self.labels, [column.names for column in self.columns]) if levels else None

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch."""
        return self.state.view(batch)

    def prepare(self, survey: Survey) -> None:
        """Fit the components of genes on the training cells, and begin where a logistic regression ends.

        Raises:
            ValueError: levels that are no tree.
        """
        if self.levels is not None:
            self.levels.learn({name: survey.obs[name][survey.train] for name in self.labels})
        self.state.prepare(survey)
        if not self.probe:
            return
        states = self.state.of(survey)[survey.train]
        for column in self.columns:
            column.regress(states, survey.obs[column.label][survey.train])

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """End where a logistic regression on the tuned backbone does; not where cells without a label have taught.

        Args:
            outputs: what :meth:`predict` gave for the cells to learn from.
            targets: their class codes by column, -1 where missing.
        """
        if self.probe and not self.pseudo_weight:
            for column in self.columns:
                column.regress(outputs["state"], targets[column.label])

    def __call__(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` of the labelled cells of each column, and ``n_targets`` of the first."""
        return super().__call__(backbone, batch)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """See :meth:`__call__`."""
        logits = self.logits(backbone, batch)
        metrics: Metrics = {}
        losses = []
        for i, column in enumerate(self.columns):
            truth = batch.obs[column.label]
            loss, n_labelled = column.loss(logits[i], truth)
            losses.append(loss)
            right = ((logits[i].argmax(1) == truth) & (truth >= 0)).sum()
            metrics[self._key("accuracy", i)] = right / n_labelled.clamp(min=1)
            metrics.setdefault("n_targets", n_labelled)
        loss = torch.stack(losses).sum()
        if self.pseudo_weight and self.training:
            extra, n_used = pseudo_label_loss(self, backbone, batch, logits)
            loss = loss + self.pseudo_weight * extra
            metrics |= {"pseudo_loss": extra.detach(), "n_pseudo": n_used}
        return {"loss": loss, **metrics}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``state`` (B, D), which the columns read, and ``logits`` (B, C) float32 of each; needs no labels."""
        state = self.state(backbone, batch)
        logits = self._scores(state)
        if self.levels is not None:
            logits = self.levels.settled(logits)
        return {"state": state, **{self._key("logits", i): own for i, own in enumerate(logits)}}

    def summarise(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Metrics of a whole epoch.

        Args:
            outputs: what :meth:`predict` gave for all its cells.
            targets: their class codes by column, -1 where missing.

        Returns:
            ``macro_f1, accuracy, balanced_accuracy, ece`` of each column.
        """
        return {
            self._key(name, i): value
            for i, column in enumerate(self.columns)
            for name, value in scores(
                outputs[self._key("logits", i)], targets[column.label], column.temperature.item()
            ).items()
        }

    def calibrate(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Fit temperatures and rejection thresholds; they are buffers, saved with the head.

        Args:
            outputs: what :meth:`predict` gave for cells that neither training nor early stopping saw.
            targets: their class codes by column, -1 where missing.

        Returns:
            ``temperature`` and ``coverage`` of each column.
        """
        return {
            self._key(name, i): value
            for i, column in enumerate(self.columns)
            for name, value in column.calibrate(
                outputs[self._key("logits", i)], targets[column.label], self.reject
            ).items()
        }

    def write(self, outputs: Arrays) -> Written:
        """The obs columns.

        Args:
            outputs: what :meth:`predict` gave.

        Returns:
            See :class:`~scfm.head.annotation.label_layer.Said`, of each column; novelty is in [0, 1]
            (:mod:`scfm.head.annotation.familiarity`).
        """
        found = [column.name(outputs[self._key("logits", i)]) for i, column in enumerate(self.columns)]
        if self.levels is not None:
            found = self.levels.named(found)
        named = zip(self.columns, found, strict=True)
        return Written(obs={key: values for column, own in named for key, values in own.columns(column.label).items()})

    def logits(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """(B, C) float32 of each column, as the loss takes them."""
        return self._scores(self.state(backbone, batch))

    def _scores(self, state: Tensor) -> list[Tensor]:
        """(B, C) float32 of each column; log-probabilities where there are levels."""
        scores = [column(state) for column in self.columns]
        return scores if self.levels is None else self.levels(scores)

    def _key(self, name: str, i: int) -> str:
        return name if i == 0 else f"{name}/{self.labels[i]}"
