"""Which genes a model connects, beside what correlation connects, against a null and a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from scfm.analysis.base import Analysis, Work
from scfm.analysis.cell_batches import select_batches
from scfm.analysis.cells import draw_rows, read_cells
from scfm.analysis.edges.collection import (
    BY_ATTENTION,
    BY_PREDICTION,
    PredictionOptions,
    Tokens,
    attention_sums,
    gene_vectors,
    prediction_sums,
)
from scfm.analysis.edges.reference import KnownEdges, choose_genes, read_edges
from scfm.analysis.edges.report import Edges, judge, make_result
from scfm.analysis.labels import column_values
from scfm.analysis.result import Result
from scfm.batch import Batch
from scfm.inference.cell_input import CellInput
from scfm.inference.load import build_backbone
from scfm.inference.model import Model
from scfm.metrics.network.association import ASSOCIATIONS, cosine, forest_importance, remove_confounders
from scfm.metrics.network.edge_sums import EdgeSums, compare_edges
from scfm.model.pooling import shorten

SCORES = (*BY_ATTENTION, "static", "contextual", *BY_PREDICTION)
#: Numbers that the sums under all labelings may hold.
ROOM = 100_000_000


@dataclass(frozen=True)
class Network(Analysis):
    """Edges between genes by a model and by expression, in the same cells.

    Attributes:
        scores: of the model: attention, rollout, static, contextual, gradient, integrated_gradients, occlusion.
        reference: table with the columns ``tf`` and ``target``, to judge the edges by.
        n_genes: genes of the network: those of the reference first, then the most detected.
        label: obs column, and
        group: its value: only these cells. Edges in a mixture of types are edges between types.
        max_cells: cells, at most.
        min_cells: a pair of genes needs this many cells that have both.
        n_permutations: of gene labels between cells, within tenths of the ranking; 0 for none.
        predicted_cells: cells for gradients and occlusion, at most.
        n_targets: genes of such a cell that are predicted.
        n_steps: of integrated gradients.
        forest: whether GENIE3's random forests are among the scores of expression; a second for three targets.
        control: whether the same attention is also read from random weights.
        seed: of cells, permutations, weights and resamples.
    """

    name: ClassVar[str] = "network"

    scores: Sequence[str] = ("attention", "rollout", "static", "contextual", "integrated_gradients")
    reference: str | None = None
    n_genes: int = 150
    label: str | None = None
    group: str | None = None
    max_cells: int = 1000
    min_cells: int = 15
    n_permutations: int = 20
    predicted_cells: int = 30
    n_targets: int = 12
    n_steps: int = 8
    forest: bool = False
    control: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown or not self.scores:
            raise ValueError(f"analysis.scores={list(self.scores)}; expected some of {', '.join(SCORES)}")
        for name in ("n_genes", "max_cells", "min_cells", "predicted_cells", "n_targets", "n_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"analysis.{name}={getattr(self, name)}; expected a whole number, 1 or more")
        if self.n_permutations and self.n_permutations < 3:
            raise ValueError(f"analysis.n_permutations={self.n_permutations}; expected 0 for none, or at least 3")
        if self.n_genes**2 * (1 + self.n_permutations) > ROOM:
            raise ValueError(
                f"analysis.n_genes={self.n_genes} with analysis.n_permutations={self.n_permutations} would hold "
                f"{self.n_genes**2 * (1 + self.n_permutations):,} numbers for each score, at most {ROOM:,} are; "
                "lower either"
            )
        if (self.label is None) != (self.group is None):
            raise ValueError("analysis.label and analysis.group go together: a column of obs and its value")

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """Edges of the chosen cells and genes by every score."""
        known = None if self.reference is None else read_edges(self.reference, cells)
        rows = draw_rows(self._rows(cells), self.max_cells, None, self.seed)
        chosen = select_batches(cells, rows, work, model.module.device)
        batches = [shorten(model.backbone, batch) for batch in chosen]
        genes, detected, rank = _choose(batches, model, known, self.n_genes, self.min_cells)
        if known is not None:
            judge(known.matrix(genes))  # refuses a reference that can judge nothing
        if not model.backbone.causal and set(self.scores) & set(BY_PREDICTION):
            model.vocab.special("mask")
        tokens = Tokens.from_batches(batches, genes, self.n_permutations, self.seed)
        sums, error = self._sums(model, tokens, len(genes), work)
        edges = Edges(genes, tuple(model.vocab.tokens[gene] for gene in genes))
        for name, own in sums.items():
            means = own.means(self.min_cells if name in BY_ATTENTION else 1)
            edges.ours[name] = means[0]
            edges.cells[name] = own.count[0].reshape(len(genes), len(genes))
            if self.n_permutations:
                edges.tests[name] = compare_edges(means)
        self._add_vectors(edges, model, batches)
        if "attention" in edges.ours:
            edges.ours["attention_partial"] = remove_confounders(
                edges.ours["attention"], np.column_stack([rank, detected])
            )
        read = read_cells(cells, rows)
        values = read.log_normalized()[:, genes].toarray().astype(np.float64)
        edges.rivals |= {name: associate(values) for name, associate in ASSOCIATIONS.items()}
        if self.forest:
            regulators = np.arange(len(genes)) if known is None else np.flatnonzero(known.matrix(genes).any(axis=1))
            edges.rivals["forest"] = forest_importance(values, regulators, seed=self.seed)
        if self.control and set(self.scores) & set(BY_ATTENTION):
            edges.controls |= self._random_weights(model, tokens, len(genes), work)
        about = {"cells": len(rows), "completeness error": error, "group": self.group or "all cells"}
        return make_result(edges, known, about, seed=self.seed, mixed=self.group is None)

    def _rows(self, cells: CellInput) -> np.ndarray:
        if self.label is None:
            return np.arange(cells.cells.n_cells)
        values = column_values(cells, self.label)
        rows = np.flatnonzero(values == self.group)
        if not len(rows):
            have = ", ".join(sorted({str(value) for value in values if value})[:6]) or "none"
            raise ValueError(f"no cell has obs[{self.label!r}] = {self.group!r}; its values are {have}")
        return rows

    def _sums(self, model: Model, tokens: Tokens, n_genes: int, work: Work) -> tuple[dict[str, EdgeSums], float]:
        sums: dict[str, EdgeSums] = {}
        error = float("nan")
        if set(self.scores) & set(BY_ATTENTION):
            n_cells = sum(batch.n_cells for batch in tokens.batches)
            with work.bar("Attention", n_cells) as advance:
                sums |= attention_sums(model.backbone, tokens, n_genes, advance)
        asked = [name for name in BY_PREDICTION if name in self.scores]
        if asked:
            options = PredictionOptions(asked, self.predicted_cells, self.n_targets, self.n_steps, self.seed)
            with work.bar("Predicting genes", self.predicted_cells) as advance:
                more, error = prediction_sums(model.backbone, model.vocab, tokens, n_genes, options, advance)
            sums |= more
        return {name: own for name, own in sums.items() if name in self.scores}, error

    def _add_vectors(self, edges: Edges, model: Model, batches: Sequence[Batch]) -> None:
        if {"static", "contextual"} & set(self.scores):
            vectors = gene_vectors(model.backbone, batches, edges.genes)
            edges.ours |= {name: cosine(table) for name, table in vectors.items() if name in self.scores}

    def _random_weights(self, model: Model, tokens: Tokens, n_genes: int, work: Work) -> dict[str, np.ndarray]:
        """Attention of an untrained backbone of the same shape, in the same cells."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            backbone = build_backbone(model.checkpoint).to(model.module.device).eval()
        plain = Tokens(tokens.batches, tokens.labels[:1])
        with work.bar("Random weights", sum(batch.n_cells for batch in tokens.batches)) as advance:
            sums = attention_sums(backbone, plain, n_genes, advance)
        return {
            f"{name}_random_weights": own.means(self.min_cells)[0] for name, own in sums.items() if name in self.scores
        }


def _choose(
    batches: Sequence[Batch], model: Model, known: KnownEdges | None, n_genes: int, min_cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genes of the network, and (G,) each the share of cells that have them and their mean rank where they are."""
    n_tokens = len(model.vocab)
    is_gene = np.zeros(n_tokens)
    is_gene[model.vocab.gene_ids] = 1
    detected, rank = np.zeros(n_tokens), np.zeros(n_tokens)
    for batch in batches:
        ids = batch.ids.cpu().numpy()
        detected += np.bincount(ids, minlength=n_tokens)
        rank += np.bincount(ids, batch.positions.cpu().numpy(), minlength=n_tokens)
    detected *= is_gene
    genes = choose_genes(detected, known, n_genes, min_cells)
    n_cells = sum(batch.n_cells for batch in batches)
    return genes, detected[genes] / max(n_cells, 1), rank[genes] / np.maximum(detected[genes], 1)
