"""Cell types from cell embeddings by a linear layer or a small network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.annotation.column_weights import ColumnWeights
from scfm.head.annotation.label_layer import LabelLayer
from scfm.head.annotation.levels import Levels
from scfm.head.annotation.pseudo import pseudo_label_loss
from scfm.head.base import TRAINED, Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.ranges import check_proper_shares
from scfm.head.survey import Survey
from scfm.metrics.classification import scores
from scfm.types import Backbone, Metrics, Spec


class Classifier(StateHead):
    """Predicts the class of each cell, for one or several label columns at once.

    The classifier reads the backbone's embedding and, beside it, linear components of the cell's genes (a deep and a
    wide path, Cheng et al. 2016). A linear classifier begins at the logistic regression of this state, because a head
    that begins at random damages the pretrained weights (Kumar et al. 2022), and is fitted once more after training.
    The loss is the sum over the columns of the weighted cross-entropy of their labeled cells. Cells without a label
    can be used through pseudo-labels (:mod:`scfm.head.annotation.pseudo`). Metrics and outputs of the first column have
    plain names, those of the others end in ``/column``.

    Args:
        spec: classes, their counts, width, vocabulary.
        label: obs column, or several.
        levels: the columns go from broad to fine, each class inside one of the column before; calls then agree
            (:class:`~scfm.head.annotation.levels.Levels`).
        gene_components: linear components of the cell's genes beside the embedding; 0 for none.
        counts: the components are of log-normalized counts instead of ranks; the store has to keep counts.
        variable_components: principal components of 2,000 variable genes beside these, from counts; 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        probe: whether the classifier begins at a logistic regression on the pretrained backbone and ends at one on the
            fine-tuned backbone; without effect where there is a hidden layer.
        hidden: width of a hidden layer; 0 for a linear classifier.
        dropout: before each linear layer.
        class_weights: whether the weight of a class is inverse to its frequency, within a factor of ten.
        reject: share of correct calls that calibration may turn into ``unknown``.
        coverage: probability with which the set of names that is written for each cell, ``scfm_<label>_set``, holds the
            true one (:mod:`scfm.head.annotation.conformal`); null for no sets. It needs calibration cells.
        pseudo_weight: weight of the pseudo-label loss of unlabeled cells; 0 for none.
        pseudo_confidence: smallest probability of a call that becomes a pseudo-label.
        token_drop: share of tokens left out of the view that is trained on a pseudo-label.
        weights: of the columns in the loss, in their order; ``learned``: by their uncertainty
            (:class:`~scfm.head.annotation.column_weights.ColumnWeights`); null: all 1.

    Raises:
        ValueError: no such column, fewer than two classes, no labeled cell, or a number out of its range.
    """

    metric: ClassVar[str] = "macro_f1"
    columns: Sequence[LabelLayer]

    def __init__(
        self,
        spec: Spec,
        *,
        label: str | list[str],
        levels: bool = False,
        gene_components: int = 64,
        counts: bool = False,
        variable_components: Components = 0,
        max_tokens: int | None = None,
        probe: bool = True,
        hidden: int = 0,
        dropout: float = 0.1,
        class_weights: bool = True,
        reject: float = 0.05,
        coverage: float | None = None,
        pseudo_weight: float = 0.0,
        pseudo_confidence: float = 0.9,
        token_drop: float = 0.2,
        weights: list[float] | Literal["learned"] | None = None,
    ) -> None:
        super().__init__()
        shares = {
            "dropout": dropout,
            "reject": reject,
            "pseudo_confidence": pseudo_confidence,
            "token_drop": token_drop,
        }
        check_proper_shares(**shares)
        if coverage is not None and (not 0 < coverage < 1 or levels):
            raise ValueError(
                f"head.coverage={coverage} with head.levels={levels}; expected 0 < coverage < 1 and no levels"
            )
        self.labels = (label,) if isinstance(label, str) else tuple(label)
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"head.label={list(self.labels)}; expected one obs column or several different ones")
        self.weights = ColumnWeights(self.labels, weights)
        self.state = CellState(
            spec,
            gene_components,
            max_tokens,
            score="counts" if counts else "log",
            variable_components=variable_components,
        )
        self.counts = self.state.counts
        self.probe, self.reject = probe, reject
        self.pseudo_weight, self.pseudo_confidence, self.token_drop = pseudo_weight, pseudo_confidence, token_drop
        self.columns = nn.ModuleList(  # type: ignore[assignment]
            LabelLayer(
                spec,
                name,
                self.state.width,
                hidden=hidden,
                dropout=dropout,
                class_weights=class_weights,
                blocks=self.state.blocks,
                coverage=coverage,
            )
            for name in self.labels
        )
        self.levels = Levels(self.labels, [column.names for column in self.columns]) if levels else None

    def prepare(self, survey: Survey) -> None:
        """Fit the gene components and, on them and the embedding, the logistic regression to begin with.

        Raises:
            ValueError: levels that are no tree.
        """
        if self.levels is not None:
            self.levels.learn({name: survey.obs[name][survey.train] for name in self.labels})
        super().prepare(survey)
        if not self.probe:
            return
        states, groups = self.state.from_survey(survey)[survey.train], survey.train_groups
        for column in self.columns:
            column.regress(states, survey.obs[column.label][survey.train], groups=groups)

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Fit the distances to classes and, unless pseudo-labels were used, the logistic regression once more.

        Args:
            outputs: results of :meth:`predict` for the cells to learn from.
            targets: their class codes by column, -1 where missing.
        """
        for column in self.columns:
            column.distance.fit(outputs["state"], targets[column.label])
            if self.probe and not self.pseudo_weight:
                column.regress(outputs["state"], targets[column.label], trained=outputs.get(TRAINED))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``accuracy`` of the labeled cells of each column, and ``n_targets`` of the first."""
        logits = self.logits(backbone, batch)
        metrics: Metrics = {}
        losses, counts = [], []
        for i, column in enumerate(self.columns):
            truth = batch.obs[column.label]
            loss, n_labeled = column.loss(logits[i], truth)
            losses.append(loss)
            counts.append(n_labeled)
            right = ((logits[i].argmax(1) == truth) & (truth >= 0)).sum()
            metrics[self._key("accuracy", i)] = right / n_labeled.clamp(min=1)
            metrics.setdefault("n_targets", n_labeled)
        loss = self.weights(losses, counts)
        metrics |= self.weights.metrics(self.labels)
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
            logits = self.levels.enforce_levels(logits)
        return {"state": state, **{self._key("logits", i): scores for i, scores in enumerate(logits)}}

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Metrics of a whole epoch.

        Args:
            outputs: results of :meth:`predict` for all its cells.
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
            outputs: results of :meth:`predict` for cells that neither training nor early stopping used.
            targets: their class codes by column, -1 where missing.

        Returns:
            ``temperature`` and ``coverage`` of each column.
        """
        return {
            self._key(name, i): value
            for i, column in enumerate(self.columns)
            for name, value in column.calibrate(
                outputs[self._key("logits", i)], targets[column.label], self.reject, outputs["state"]
            ).items()
        }

    def write(self, outputs: Arrays) -> Written:
        """The obs columns.

        Args:
            outputs: results of :meth:`predict`.

        Returns:
            The columns of :class:`~scfm.head.annotation.label_layer.Prediction` for each label; novelty is in [0, 1]
            (:mod:`scfm.head.annotation.state_distance`).
        """
        predictions = [
            column.name(outputs[self._key("logits", i)], outputs.get("state")) for i, column in enumerate(self.columns)
        ]
        if self.levels is not None:
            predictions = self.levels.align_names(predictions)
        obs: dict[str, np.ndarray] = {}
        for column, prediction in zip(self.columns, predictions, strict=True):
            obs |= prediction.columns(column.label)
        return Written(obs=obs)

    def logits(self, backbone: Backbone, batch: Batch) -> list[Tensor]:
        """Scores of each column, (B, C) float32, for the loss."""
        return self._scores(self.state(backbone, batch))

    def _scores(self, state: Tensor) -> list[Tensor]:
        """Scores of each column, (B, C) float32; log-probabilities where there are levels."""
        scores = [column(state) for column in self.columns]
        return scores if self.levels is None else self.levels(scores)

    def _key(self, name: str, i: int) -> str:
        return name if i == 0 else f"{name}/{self.labels[i]}"
