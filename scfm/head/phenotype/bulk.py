"""From a bulk cohort with an outcome to cells without one (the question of Scissor, Sun et al. 2022)."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, StateHead
from scfm.head.phenotype.bulk_fit import BulkFit, align, fit_bulk, set_discovery
from scfm.head.ranges import check_positive, check_proper_shares
from scfm.head.survey import Survey
from scfm.metrics.samples import auc
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)

#: A score whose leave-cohort-out AUC has a larger p is not passed to cells.
MAX_P = 0.05


class Bulk(StateHead):
    """Learns an outcome of bulk profiles, tokenized as cells, and gives cells a signed score.

    States of bulk samples are centered in each cohort; a ridge logistic regression is fitted on them. States of cells
    are centered and their covariance is brought to that of the bulk samples (CORAL, Sun et al. 2016, shrunk), since
    the two domains differ; the score of a cell is wᵀ h. The regression is first judged on cohorts left out, with
    permutations
    inside cohorts: where p is above 0.05, no cell gets a score. A set of cells comes at a false discovery rate from the
    same permutations.

    Args:
        spec: classes, width, vocabulary.
        label: obs column of the bulk samples' outcome, two classes; the score is for the second in the order of names.
        cohort: obs column of cohorts; None takes all samples as one, judged by five folds.
        gene_components: linear components of the genes beside the embedding; 0 for none.
        max_tokens: tokens that the backbone reads, at most; the components read all. None: no limit.
        penalty: C of the regression, in units of one over the mean squared length of a state.
        permutations: of the outcome inside cohorts.
        fdr: of the set of cells.
        seed: of the permutations.

    Raises:
        ValueError: no such column, other than two classes, or a number out of its range.
    """

    metric: ClassVar[str] = "auc"
    center: Tensor
    covariance: Tensor
    null: Tensor
    judged: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        label: str,
        cohort: str | None = None,
        gene_components: int = 64,
        max_tokens: int | None = None,
        penalty: float = 1.0,
        permutations: int = 100,
        fdr: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(penalty=penalty, permutations=permutations)
        check_proper_shares(fdr=fdr)
        self.classes = spec.categories("head.label", label)
        if len(self.classes) != 2:
            raise ValueError(f"head.label={label!r} has {len(self.classes)} classes; expected two")
        if cohort is not None:
            spec.categories("head.cohort", cohort)
        self.label, self.cohort, self.penalty, self.fdr, self.seed = label, cohort, penalty, fdr, seed
        self.permutations = permutations
        self.labels = (label,) if cohort is None else (label, cohort)
        self.learned = (label,)
        self.state = CellState(spec, gene_components, max_tokens, score="log")
        width = self.state.width
        self.line = nn.Linear(width, 1)
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("covariance", torch.eye(width))
        self.register_buffer("null", torch.zeros(permutations, width))
        self.register_buffer("judged", torch.tensor([0.5, 1.0]))  # leave-cohort-out AUC and its p

    def prepare(self, survey: Survey) -> None:
        """Fit the components and the regression on the training samples.

        Raises:
            ValueError: too few samples of a class.
        """
        super().prepare(survey)
        obs = {name: values[survey.train] for name, values in survey.obs.items()}
        self._learn(self.state.from_survey(survey)[survey.train], obs)

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Fit the regression on the fine-tuned backbone."""
        self._learn(outputs["state"], targets)

    def _learn(self, states: np.ndarray, obs: Arrays) -> None:
        truth = obs[self.label]
        cohorts = obs[self.cohort] if self.cohort else np.zeros(len(truth), dtype=np.int64)
        known = (truth >= 0) & (cohorts >= 0)
        found = fit_bulk(
            states[known], truth[known], cohorts[known], penalty=self.penalty, permutations=self.permutations,
            seed=self.seed,
        )  # fmt: skip
        self._take(found)
        log.info("Cohorts left out: AUC %.3f, p = %.3f (%d samples).", found.auc, found.p, int(known.sum()))

    def _take(self, found: BulkFit) -> None:
        with torch.no_grad():
            self.line.weight.copy_(torch.from_numpy(found.weight)[None])
            self.line.bias.fill_(found.bias)
            values = (found.center, found.covariance, found.null, np.array([found.auc, found.p]))
            for buffer, value in zip((self.center, self.covariance, self.null, self.judged), values, strict=True):
                buffer.copy_(torch.from_numpy(value).to(buffer))

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` of the bulk samples of a batch that have an outcome, and ``n_targets``, their number."""
        truth = batch.obs[self.label]
        known = truth >= 0
        logits = self.line(self.state(backbone, batch) - self.center).squeeze(1).float()
        each = F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0).float(), reduction="none")
        n = known.sum()
        return {"loss": (each * known).sum() / n.clamp(min=1), "n_targets": n}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``state`` (B, D)."""
        return {"state": self.state(backbone, batch)}

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``auc`` of bulk samples, centered in their cohorts; and that of cohorts left out, with its p."""
        states, truth = outputs["state"], targets[self.label]
        cohorts = targets[self.cohort] if self.cohort else np.zeros(len(truth), dtype=np.int64)
        score = np.full(len(truth), np.nan)
        for code in np.unique(cohorts):
            own = cohorts == code
            score[own] = (states[own] - states[own].mean(axis=0)) @ self.line.weight.detach().cpu().numpy()[0]
        known = truth >= 0
        judged = self.judged.cpu().numpy()
        return {
            "auc": auc(truth[known] == 1, score[known]),
            "auc_cohorts_left_out": float(judged[0]),
            "p_cohorts_left_out": float(judged[1]),
        }

    def write(self, outputs: Arrays) -> Written:
        """``scfm_phenotype_score`` (NaN where the regression fails on cohorts left out) and ``scfm_phenotype``.

        The cells of the file are one domain: their mean and covariance are those of all of them.
        """
        states = outputs["state"]
        known = np.isfinite(states).all(axis=1)
        judged = self.judged.cpu().numpy().astype(float)
        score = np.full(len(states), np.nan, dtype=np.float32)
        called = np.full(len(states), "none", dtype=object)
        passed = bool(judged[1] <= MAX_P) and int(known.sum()) > 1
        if passed:
            low = align(states[known], self.covariance.cpu().numpy())
            found = low @ self.line.weight.detach().cpu().numpy()[0]
            null = low @ self.null.cpu().numpy().T
            score[known] = found
            called[known] = set_discovery(found, null, self.fdr)
        else:
            log.warning(
                "The outcome is not told by bulk samples of cohorts left out (AUC %.3f, p = %.3f): no cells.", *judged
            )
        uns: dict[str, Any] = {
            "auc_cohorts_left_out": judged[0], "p_cohorts_left_out": judged[1], "passed_to_cells": passed,
            "positive": self.classes[1], "fdr": self.fdr,
        }  # fmt: skip
        return Written(obs={"scfm_phenotype_score": score, "scfm_phenotype": called}, uns=uns)
