"""Phenotypes of donors from their cells: cross-validated by donor, beside simple methods, attention tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from scfm import plot
from scfm.analysis.base import Analysis, Work
from scfm.analysis.phenotypes.attention_tests import STABLE, agreement, deletion_table, type_table
from scfm.analysis.phenotypes.cohort import Cohort, read_cohort
from scfm.analysis.phenotypes.crossfit import Heldout, fit_heldout, logistic_heldout
from scfm.analysis.phenotypes.folds import donor_folds, permuted_labels
from scfm.analysis.result import Result
from scfm.head.phenotype.fit import Fit
from scfm.head.phenotype.network import BagNetwork, Pooling
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.metrics.samples import donor_interval, mean_auc, sample_scores

ATTENTION, MEAN = "attention", "mean of the cells"
PSEUDOBULK, PROPORTIONS = "pseudobulk, logistic regression", "type proportions, logistic regression"
SIZES, SEX = "number of cells and library size", "XIST and RPS4Y1"
NOTE = (
    "The donor is the unit. An interval of an AUC over 20 donors spans about ± 0.2. What tells the label without cells "
    "(number of cells, library size, batch, sex) is no phenotype; read those rows first."
)


@dataclass(frozen=True)
class Phenotype(Analysis):
    """Names the phenotype of donors that nothing was fitted on, and tests which cells carried it.

    Attributes:
        label: obs column of the classes, constant in a sample.
        sample: obs column of the samples.
        donor: obs column of the donors, where they have several samples.
        batch: obs column of batches; a label that follows it is refused.
        types: obs column of cell types, for proportions and the attention by type.
        within: subtract the mean of a cell's type, so that composition cannot help.
        pool, branches, inducing, width, hidden, gene_components, steps, decay: of the network, as in
            ``head=phenotype/attention``.
        cells: of a sample that a step draws, at most.
        min_cells: smaller samples are left out.
        max_cells: of a sample that are read, at most.
        folds: with 20 donors or more; fewer are left out one at a time.
        repeats: of the folds.
        permutations: of the labels, each with a refit of everything.
        draws: bootstrap samples of donors.
        seed: of everything random.
    """

    name: ClassVar[str] = "phenotype"

    label: str
    sample: str = "donor"
    donor: str | None = None
    batch: str | None = None
    types: str | None = None
    within: bool = False
    pool: Pooling = "attention"
    branches: bool = False
    inducing: int = 0
    width: int = 24
    hidden: int = 16
    gene_components: int = 64
    steps: int = 120
    decay: float = 0.1
    cells: int = 64
    min_cells: int = 10
    max_cells: int = 256
    folds: int = 5
    repeats: int = 3
    permutations: int = 200
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.within and self.types is None:
            raise ValueError("analysis.within=true subtracts the means of types; give analysis.types=COLUMN")
        if self.min_cells < 2 or self.folds < 2 or min(self.repeats, self.steps, self.width, self.hidden) < 1:
            raise ValueError(
                f"analysis.min_cells={self.min_cells}, folds={self.folds}, repeats={self.repeats}, steps={self.steps}; "
                "expected at least 2, 2, 1, 1"
            )
        if self.permutations < 0 or max(self.width, self.hidden) > 64:
            raise ValueError(
                f"analysis.permutations={self.permutations}, width={self.width}, hidden={self.hidden}; expected 0 or "
                "more, and widths up to 64"
            )

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """See the class."""
        cohort = read_cohort(
            model, cells, work, label=self.label, sample=self.sample, donor=self.donor, batch=self.batch,
            types=self.types, min_cells=self.min_cells, max_cells=self.max_cells, seed=self.seed,
        )  # fmt: skip
        samples = cohort.samples
        folds = donor_folds(samples.truth, samples.donors, folds=self.folds, repeats=self.repeats, seed=self.seed)
        labels = permuted_labels(samples.truth, samples.donors, self.permutations, self.seed)
        ours = self._networks(model, cohort, labels, folds, work, self.pool)
        probabilities = {ATTENTION if self.pool == "attention" else MEAN: ours.probabilities}
        if self.pool == "attention":
            probabilities[MEAN] = self._networks(model, cohort, labels, folds, work, "mean").probabilities
        for name, values in self._simple(model, cohort).items():
            probabilities[name] = logistic_heldout(values, labels, folds)
        return self._result(cohort, probabilities, ours, len(folds))

    def _networks(
        self, model: Model, cohort: Cohort, labels: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]],
        work: Work, pool: Pooling,
    ) -> Heldout:  # fmt: skip
        how = Fit("class", steps=self.steps, decay=self.decay, cells=self.cells, seed=self.seed)

        def make(seed: int) -> BagNetwork:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return BagNetwork(
                    self.width, len(cohort.classes), hidden=self.hidden, pool=pool, branches=self.branches,
                    inducing=self.inducing,
                )  # fmt: skip

        types = None
        if self.within:
            types = np.where(cohort.types == "", -1, np.unique(cohort.types.astype(str), return_inverse=True)[1])
        with work.bar(f"Cross-validating {pool}", len(folds), unit="fold") as advance:
            return fit_heldout(
                lambda train: cohort.states(model, train, self.gene_components), cohort.samples.cells, labels, folds,
                make=make, width=self.width, how=how, types=types, advance=advance,
                n_null=50 if pool == "attention" else 0,
            )  # fmt: skip

    def _simple(self, model: Model, cohort: Cohort) -> dict[str, np.ndarray]:
        """Features of samples that simple methods read."""
        given = {
            PSEUDOBULK: cohort.pseudobulk(),
            PROPORTIONS: cohort.proportions(),
            SIZES: cohort.sizes(),
            SEX: cohort.sex(model),
        }
        return {name: values for name, values in given.items() if values is not None}

    def _result(self, cohort: Cohort, probabilities: dict[str, np.ndarray], ours: Heldout, n_folds: int) -> Result:
        scores = self._score_table(cohort, probabilities)
        best = scores[~scores["method"].isin([ATTENTION, MEAN, SIZES, SEX])].sort_values("auc").iloc[-1]
        own, place = scores.iloc[0], cohort.samples.cells
        donors = len(np.unique(cohort.samples.donors))
        sizes = f"{donors} donors, {len(place):,} cells"
        first = f"The {own['method']} names {self.label} of donors left out with AUC {_spread(own)}"
        summary = [
            f"{first} (p = {own['p']:.3f} by {self.permutations} permutations, {sizes}); {best['method']} reaches "
            f"{_spread(best)}."
        ]
        if best["auc"] >= own["auc"]:
            summary[0] = f"A simple method does as well or better: {best['method']} {_spread(best)}. {summary[0]}"
        tables = {"scores": scores, "samples": self._sample_table(cohort, probabilities, n_folds)}
        figures = {}
        if len(cohort.classes) == 2:
            named = {name: values[0, :, 1] for name, values in probabilities.items() if name not in (SIZES, SEX)}
            legend = {row["method"]: f"{row['method']}, {_spread(row)}" for _, row in scores.iterrows()}
            truth = cohort.samples.truth == 1
            figures["roc"] = (
                plot.roc_curves(truth, named, legend),
                f"Held-out samples of {sizes}; band: 95 % of the first.",
            )
        if self.pool == "attention":
            tables["deletion"] = deletion_table(ours.falls, self.seed)
            stable = agreement(ours.attention, ours.other, place)
            summary.append(_attention_sentence(tables["deletion"], stable))
            if (cohort.types != "").any():
                tables["attention_by_type"] = type_table(ours.attention, cohort.types, place, self.seed)
                caption = "Attention of held-out samples by type; intervals over samples."
                figures["attention_by_type"] = (plot.attention_by_type(tables["attention_by_type"]), caption)
        tables["cells"] = pd.DataFrame({
            "cell": cohort.cells.obs.index.astype(str), "sample": cohort.names[place], "type": cohort.types.astype(str),
            "attention": ours.attention, "phenotype_score": ours.contribution,
        })  # fmt: skip
        notes = [NOTE, *self._warnings(cohort, scores)]
        return Result(
            f"Phenotype: {self.label}", summary, tables, notes, large=frozenset({"cells"}),
            shown={name: list(frame.columns) for name, frame in tables.items() if name != "cells"}, figures=figures,
            coverage={
                "samples": len(cohort.samples), "donors": donors, "cells": len(place), "folds": n_folds,
                "permutations": self.permutations, "p of label and batch": cohort.batch_p,
            },
        )  # fmt: skip

    def _score_table(self, cohort: Cohort, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
        truth, donors = cohort.samples.truth, cohort.samples.donors
        rows = []
        for name, values in probabilities.items():
            observed = sample_scores(truth, values[0])
            low, high = donor_interval(
                lambda rows, values=values: mean_auc(truth[rows], values[0][rows]),  # type: ignore[misc]
                donors, self.draws, self.seed,
            )  # fmt: skip
            null = self._null(cohort, values)
            p = (1 + (null >= observed["auc"]).sum()) / (1 + len(null)) if len(null) else float("nan")
            rows.append(
                {"method": name, **observed, "low": low, "high": high, "p": p, "n_donors": len(np.unique(donors))}
            )
        return pd.DataFrame(rows)[["method", "auc", "low", "high", "p", "balanced_accuracy", "brier", "n_donors"]]

    def _null(self, cohort: Cohort, values: np.ndarray) -> np.ndarray:
        """AUC of networks of permuted labels, against these labels."""
        labels = permuted_labels(cohort.samples.truth, cohort.samples.donors, self.permutations, self.seed)
        return np.array([mean_auc(labels[i], values[i]) for i in range(1, len(values))])

    def _sample_table(self, cohort: Cohort, probabilities: dict[str, np.ndarray], n_folds: int) -> pd.DataFrame:
        sizes = np.bincount(cohort.samples.cells, minlength=len(cohort.samples))
        frame = pd.DataFrame({
            "sample": cohort.names, "truth": np.array(cohort.classes, dtype=object)[cohort.samples.truth],
            "n_cells": sizes,
        })  # fmt: skip
        for name, values in probabilities.items():
            frame[f"{name}: {cohort.classes[-1]}"] = values[0, :, -1]
        return frame

    def _warnings(self, cohort: Cohort, scores: pd.DataFrame) -> list[str]:
        found = []
        own = scores.iloc[0]["auc"]
        for name in (SIZES, SEX):
            row = scores[scores["method"] == name]
            if len(row) and row.iloc[0]["auc"] >= min(own, 0.7) and row.iloc[0]["auc"] > 0.6:
                found.append(
                    f"{name} alone names {self.label} with AUC {_spread(row.iloc[0])}: it may be what is learned."
                )
        if cohort.batch_p < 0.05:
            found.append(f"{self.label} depends on {self.batch} (χ² over samples, p = {cohort.batch_p:.3g}).")
        return found


def _spread(row: pd.Series) -> str:
    return f"{row['auc']:.3f} ({row['low']:.2f} to {row['high']:.2f})"


def _attention_sentence(deletion: pd.DataFrame, stable: float) -> str:
    rows = deletion.set_index("cells")
    excess = rows.loc["excess"]
    text = (
        f"Without the tenth of the cells of highest attention the logit falls by {excess['fall']:.2f} more (95 % "
        f"interval {excess['low']:.2f} to {excess['high']:.2f}) than without a random tenth"
    )
    if "excess, permuted labels" in rows.index:
        null = rows.loc["excess, permuted labels"]
        text += f"; {null['fall']:.2f} with permuted labels (p = {null['p']:.3f})"
    word = "stable" if stable >= STABLE else "unstable: do not read single cells"
    return f"{text}. The attention of two seeds agrees with ρ = {stable:.2f}: {word}."
