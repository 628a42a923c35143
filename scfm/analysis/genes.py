"""Gene classification: does a gene's state in the model tell its class, beyond what expression alone tells?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd

from scfm import plot
from scfm.analysis.base import Analysis, Work
from scfm.analysis.cells import Cells, count_in_layers, draw_rows, read_cells
from scfm.analysis.gene_classes.features import (
    contextual_states,
    draw_occurrences,
    expression_features,
    expression_loadings,
    gene_means,
)
from scfm.analysis.gene_classes.label_table import choose_positive, read_labels
from scfm.analysis.gene_classes.probe import fold_scores, gene_folds, score_table
from scfm.analysis.perturbation.design import find_genes, name_set
from scfm.analysis.perturbation.reader import make_reader
from scfm.analysis.random_weights import random_backbone
from scfm.analysis.result import Result
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model

#: What expression alone says; the task counts as learned only above the better of both.
BASELINES = ("expression", "expression_pca")
#: Labels shuffled among genes, learned and judged: what leaks would show here.
SHUFFLED = "shuffled_labels"
NOTE = (
    "Genes were split, not cells. Many sets of genes differ in expression alone: only what lies above the expression "
    "baselines is of the model, and only what lies above random weights and the static table is learned from context."
)


@dataclass(frozen=True)
class Genes(Analysis):
    """Tells classes of genes apart by linear probes, folds by gene, one score a gene.

    Args:
        labels: file of genes and classes: TSV, CSV (first column: genes) or JSON ``{class: [gene, ...]}``.
        column: of the classes in a table.
        cut: makes two classes of a column of numbers, ``high`` from here on.
        family: column of gene families, each in one fold.
        positive: the class that is scored; by default the smaller of two.
        max_cells: drawn at random.
        min_cells: cells that a gene must be a token of.
        occurrences: cells of a gene that are read, at most.
        folds: of the cross-validation.
        draws: bootstrap samples of genes.
        random_weights: also the architecture with random weights.
        seed: of draws and folds.
    """

    name: ClassVar[str] = "genes"
    labels: str
    column: str = "class"
    cut: float | None = None
    family: str | None = None
    positive: str | None = None
    max_cells: int = 1000
    min_cells: int = 3
    occurrences: int = 20
    folds: int = 5
    draws: int = 1000
    random_weights: bool = True
    seed: int = 0

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """See the class.

        Raises:
            FileNotFoundError: no such label file.
            ValueError: labels that cannot be read, or too few of their genes in the cells.
        """
        labels = read_labels(self.labels, column=self.column, cut=self.cut, family=self.family)
        tokens = find_genes(cells, labels.genes)
        rows = draw_rows(np.arange(cells.cells.n_cells), self.max_cells, None, self.seed)
        read = read_cells(cells, rows)
        read = replace(read, limit=count_in_layers(model, cells.tokenizer))
        known = np.flatnonzero(tokens >= 0)
        _, first = np.unique(tokens[known], return_index=True)
        known = known[np.sort(first)]
        found = draw_occurrences(read, tokens[known], self.occurrences, self.seed)
        counts = _detections(read)[tokens[known]]
        kept = counts >= max(self.min_cells, 1)
        chosen, found = known[kept], [one for one, keep in zip(found, kept, strict=True) if keep]
        positive_class = choose_positive(labels.classes[chosen], self.positive, self.labels)
        positive = labels.classes[chosen] == positive_class
        if not 2 <= self.folds <= min(positive.sum(), (~positive).sum()):
            raise ValueError(
                f"{min(positive.sum(), (~positive).sum())} genes of a class for folds={self.folds}; lower it"
            )
        families = labels.families[chosen]
        scores, folds, shuffled = self._scores(model, cells, work, read, tokens[chosen], found, positive, families)
        vocab = cells.tokenizer.require_vocab()
        names = [name_set((int(token),), vocab) for token in tokens[chosen]]
        genes = pd.DataFrame(names, columns=["gene", "symbol"])
        genes = genes.assign(**{"class": labels.classes[chosen], "fold": folds, "n_cells": counts[kept]}).join(scores)
        coverage = {
            "genes_of_the_file": len(labels.genes), "genes_in_the_vocabulary": len(known), "genes_scored": len(chosen),
            "genes_positive": int(positive.sum()), "cells_read": len(read),
        }  # fmt: skip
        return self._result(genes, scores, positive, shuffled, positive_class, coverage)

    def _scores(
        self, model: Model, given: CellInput, work: Work, cells: Cells, tokens: np.ndarray, found: list[np.ndarray],
        positive: np.ndarray, families: np.ndarray,
    ) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:  # fmt: skip
        """Out-of-fold scores (genes x methods), the folds, and the labels of the shuffled ones."""
        folds = gene_folds(positive, families, self.folds, self.seed)
        each, single = np.repeat(np.arange(len(tokens)), list(map(len, found))), np.arange(len(tokens))
        reader = make_reader(model, given.tokenizer, work.settings.tokens_per_batch)
        states = contextual_states(cells, tokens, found, reader, work, "own")
        means = gene_means(states, found)
        expression = expression_features(cells, tokens)
        loadings = expression_loadings(cells, tokens, self.seed)
        table = model.gene_embeddings()
        static = table.to_numpy()[np.searchsorted(model.vocab.gene_ids, tokens)]
        features = {
            "contextual": (states, each),
            "contextual_mean": (means, single),
            "static": (static, single),
            "expression": (expression, single),
            "expression_pca": (np.c_[expression, loadings], single),
        }
        if self.random_weights:
            other = make_reader(
                model, given.tokenizer, work.settings.tokens_per_batch, random_backbone(model, self.seed)
            )
            drawn = contextual_states(cells, tokens, found, other, work, "random")
            features["random_weights"] = (gene_means(drawn, found), single)
        scores = {
            name: fold_scores(values, gene, positive, folds, self.seed) for name, (values, gene) in features.items()
        }
        shuffled = np.random.default_rng(self.seed).permutation(positive)
        own = fold_scores(means, single, shuffled, gene_folds(shuffled, families, self.folds, self.seed), self.seed)
        return pd.DataFrame({**scores, SHUFFLED: own}), folds, shuffled

    def _result(
        self, genes: pd.DataFrame, scores: pd.DataFrame, positive: np.ndarray, shuffled: np.ndarray, name: str,
        coverage: dict[str, int],
    ) -> Result:  # fmt: skip
        first = score_table(scores[list(BASELINES)], positive, reference=BASELINES[0], draws=2, seed=self.seed)
        best = str(first.loc[first["auroc"].idxmax(), "method"])
        own_scores = scores.drop(columns=SHUFFLED)
        table = score_table(own_scores, positive, reference=best, draws=self.draws, seed=self.seed)
        null = score_table(scores[[SHUFFLED]], shuffled, reference=SHUFFLED, draws=self.draws, seed=self.seed)
        table = pd.concat([table, null.assign(gain=np.nan, gain_low=np.nan, gain_high=np.nan)], ignore_index=True)
        own = table.set_index("method")
        ours, base = own.loc["contextual"], own.loc[best]
        word = "more than" if ours["gain_low"] > 0 else "no more than"
        summary = [
            f"States of genes tell {name} {word} {best} does: AUROC {ours['auroc']:.3f} against {base['auroc']:.3f} "
            f"(difference {ours['gain']:+.3f}, 95 % interval {ours['gain_low']:+.3f} to {ours['gain_high']:+.3f}).",
            f"{int(positive.sum())} of {len(positive)} genes are {name}; one score a gene, {self.folds} folds by gene.",
        ]
        errors = {row["method"]: (row["auroc_low"], row["auroc_high"]) for _, row in table.iterrows()}
        bars = plot.score_bars(own[["auroc", "auprc"]], highlight="contextual", errors=errors)
        return Result(
            f"Genes: {name}", summary, {"genes": genes, "scores": table}, [NOTE],
            shown={"scores": list(table.columns), "genes": list(genes.columns[1:])},
            figures={"scores": (bars, "AUROC of genes with 95 % intervals over genes, and AUPRC.")}, coverage=coverage,
        )  # fmt: skip


def _detections(cells: Cells) -> np.ndarray:
    """(V,) cells that each gene is a token of."""
    read = [cells.read_genes(cell) for cell in range(len(cells))]
    return np.bincount(np.concatenate(read), minlength=cells.counts.shape[1])
