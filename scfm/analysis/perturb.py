"""In-silico perturbation: change genes of a cell, read it again, and see how far and where its embedding moves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from scfm.analysis.base import Analysis, Work
from scfm.analysis.cells import count_embedded
from scfm.analysis.perturbation.design import Design, Question, find_genes, make_design, name_set, rankings
from scfm.analysis.perturbation.operations import Change, Operation
from scfm.analysis.perturbation.page import make_result
from scfm.analysis.perturbation.reader import Reader, make_reader
from scfm.analysis.perturbation.screen import keep_first, screen_genes, screen_note
from scfm.analysis.perturbation.shifts import Runner, make_states
from scfm.analysis.perturbation.stimulated import Measured, measure_change
from scfm.analysis.perturbation.tables import (
    cell_table,
    effect_table,
    expression_baselines,
    gene_table,
    join_parts,
    pair_table,
    upstream_table,
)
from scfm.analysis.random_weights import random_backbone
from scfm.analysis.result import Result
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.tokenizer import Tokenizer

#: Perturbations that are refused without ``max_cells``.
MANY = 1_000_000


@dataclass(frozen=True)
class Perturb(Analysis):
    """Deletes, overexpresses, scales or masks genes; measures the shift of a cell's embedding.

    Args:
        op: ``delete``, ``overexpress`` (put first), ``scale`` (count times ``factor``, ranked again) or ``mask``.
        factor: of ``scale``; 0 deletes.
        genes: ``all``, or a list of names.
        jointly: change the list together, as one perturbation.
        pairs: also change each two genes of the list together.
        anchor: a gene that is also changed together with each of the others.
        state: obs column of the states.
        start: the state whose cells are changed; with a goal the score is the shift towards that.
        goal: see ``start``.
        alt: other states whose shift is reported beside.
        donor: obs column of donors, the units of the tests.
        where: of the cells, ``cell_type == 'B'`` say.
        max_cells: of each state at most, drawn from the donors in turn.
        min_cells: cells that a gene must be changed in for a p value, and with ``genes=all`` to be changed at all.
        center: subtract the mean of start and goal cells before cosines are taken.
        refill: after a deletion the next gene of a longer cell moves up; false as published.
        effects: also compare the states of the remaining genes (slow).
        permutations: of the state labels.
        controls: perturbations of random genes of like rank for a list of genes; 0 for none.
        random_weights: also run the architecture with random weights.
        truth: file of genes, one a line, that should come first: AUROC of every score.
        stimulated: file of cells of start and goal, or ``input`` for half of the input's donors (or cells): the genes
            that change there are the truth, and the report says whether the model adds anything to expression.
        min_change: of ``stimulated``: |log2 fold change| from which on a gene changes.
        screen: number of genes that are deleted exactly, those of largest slope in one backward pass a cell, beside
            ``controls`` random ones; 0 for all.
        by: obs column for a heat map gene by group.
        table: ``upstream`` adds the table with the columns of the published code.
        bf16: matrix products in bfloat16, for changed and unchanged cells alike: faster, with errors near 1e-3.
        plan: only count perturbations and estimate the time.
        part_size: cells of a part; an interrupted run goes on after its last part.
        seed: of draws and permutations.
    """

    name: ClassVar[str] = "perturb"
    op: Operation = "delete"
    factor: float = 0.5
    genes: str | list[str] = "all"
    jointly: bool = False
    pairs: bool = False
    anchor: str | None = None
    state: str | None = None
    start: str | None = None
    goal: str | None = None
    alt: list[str] = field(default_factory=list)
    donor: str | None = None
    where: str | None = None
    max_cells: int | None = None
    min_cells: int = 8
    center: bool = True
    refill: bool = True
    effects: bool = False
    permutations: int = 200
    controls: int = 50
    random_weights: bool = True
    truth: str | None = None
    stimulated: str | None = None
    min_change: float = 0.5
    screen: int = 0
    by: str | None = None
    table: Literal["scfm", "upstream"] = "scfm"
    bf16: bool = False
    plan: bool = False
    part_size: int = 32
    seed: int = 0

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """See the class.

        Raises:
            ValueError: options, states, donors or genes that cannot be asked about, before any long work.
        """
        change = self._change(cells)
        truth, measured = self._truth(cells), self._measured(model, cells)
        if self.by is not None:
            cells.cells.require_obs([self.by])
        left = None if measured is None else measured.left
        design = make_design(cells, self._question(count_embedded(model, cells.tokenizer), left))
        if measured is not None:
            measured.require_both(design.tested(self.min_cells), self.min_change)
        reader = make_reader(model, cells.tokenizer, work.settings.tokens_per_batch, bf16=self.bf16)
        runner, seconds = self._runner(design, change, reader, cells.tokenizer, work, "own")
        runner, screened = self._screen(model, cells, work, runner)
        forwards, tokens = runner.count()
        read = sum(len(runner.rankings[i].read) for i in range(len(design.cells)))
        estimate = {"perturbations": forwards, "tokens": tokens, "seconds": seconds * tokens / max(read, 1)}
        if self.plan:
            return Result("Plan", [_sentence(estimate)], {"plan": pd.DataFrame([estimate])}, coverage=estimate)
        if forwards > MANY and self.max_cells is None:
            raise ValueError(f"{_sentence(estimate)} Set analysis.max_cells=..., or name analysis.genes=[...]")
        rows = self._run(runner, work, "own")
        return self._result(model, cells, work, runner, rows, estimate, truth, measured, screened)

    def _result(
        self,
        model: Model,
        given: CellInput,
        work: Work,
        runner: Runner,
        rows: dict[str, np.ndarray],
        estimate: dict[str, float],
        truth: set[int] | None,
        measured: Measured | None,
        screened: pd.Series | None,
    ) -> Result:
        design, vocab = runner.design, given.tokenizer.require_vocab()
        labels = rows if design.has_goal and self.permutations else None
        cells = cell_table(rows, design, vocab)
        n_tests = 0 if screened is None else len(screened)
        genes = gene_table(cells, design, vocab, labels, self.min_cells, n_tests)
        if screened is not None:
            genes["screened"] = genes["gene"].map(screened)
            design.notes.append(screen_note(genes, n_tests))
        if self.random_weights:
            genes = genes.merge(self._random(model, given, work, runner), on="gene", how="left")
        genes = self._with_expression(genes, design, given.tokenizer)
        tables = {"genes": genes, "cells": cells}
        if self.anchor is not None or self.pairs:
            tables["pairs"] = pair_table(cells, design, vocab)
        if self.effects:
            tables["affected"] = effect_table(rows, design, vocab)
        if self.table == "upstream":
            tables["genes_upstream"] = upstream_table(cells, design, vocab, all_genes=self.genes == "all")
        groups = None if self.by is None else given.cells.obs[self.by].astype(str).to_numpy()
        names = None if truth is None else {vocab.tokens[gene] for gene in truth}
        if measured is not None:
            tables["genes"] = genes = genes.join(measured.by_name(vocab), on="gene")
            names = set(genes.loc[genes["changes"].eq(True), "gene"])
        detections = design.detections[design.detections > 0]
        coverage = {
            "cells_changed": len(design.changed),
            "cells_read": len(design.cells),
            "donors": len(design.donor_names),
            "genes_in_any_cell": len(detections),
            "median_cells_of_a_gene": float(np.median(detections)) if len(detections) else 0.0,
            "perturbations": int(estimate["perturbations"]),
            "rows": len(cells),
        }
        return make_result(
            tables, design, groups=groups, truth=names, coverage=coverage, op=self.op,
            measured=None if measured is None else measured.source, seed=self.seed,
        )  # fmt: skip

    def _runner(
        self, design: Design, change: Change, reader: Reader, tokenizer: Tokenizer, work: Work, name: str
    ) -> tuple[Runner, float]:
        """A runner with the states of a model's own embeddings, and the seconds that these took."""
        ranked = rankings(design.cells, tokenizer)
        if change.op == "scale" and not all(ranking.by_counts for ranking in ranked):
            raise ValueError("analysis.op=scale needs a tokenizer that ranks by counts or by counts over medians")
        began = time.perf_counter()
        read = [ranking.listed for ranking in ranked]
        embeddings = work.part(f"{name}-cells", lambda: {"embedding": reader.embed(read)})["embedding"]
        seconds = time.perf_counter() - began
        states = make_states(
            design, embeddings, center=self.center, permutations=self.permutations if name == "own" else 0,
            seed=self.seed,
        )  # fmt: skip
        return Runner(design, ranked, change, reader, states, self.effects and name == "own"), seconds

    def _screen(self, model: Model, given: CellInput, work: Work, runner: Runner) -> tuple[Runner, pd.Series | None]:
        """A runner of the genes that a screen leaves, and the slope of every gene that was screened."""
        if not self.screen or self.plan:
            return runner, None
        design, vocab = runner.design, given.tokenizer.require_vocab()
        tokens = design.tested(self.min_cells)
        slope = work.part("screen", lambda: {"slope": screen_genes(model, given, design, runner.states, work)})["slope"]
        left = keep_first(design, tokens, slope, self.screen, self.controls, self.seed)
        return replace(runner, design=left), pd.Series(slope[tokens], index=[vocab.tokens[i] for i in tokens])

    def _run(self, runner: Runner, work: Work, name: str) -> dict[str, np.ndarray]:
        changed = runner.design.changed
        chunks = [changed[low : low + self.part_size] for low in range(0, len(changed), self.part_size)]
        names = [f"{name}-{number:06d}" for number in range(len(chunks))]
        done = sum(len(chunk) for chunk, part in zip(chunks, names, strict=True) if work.has(part))
        title = "Perturbing" if name == "own" else "Random weights"
        with work.bar(title, len(changed), done) as advance:
            makers = [partial(runner.run, chunk, advance) for chunk in chunks]
            return join_parts([work.part(part, make) for part, make in zip(names, makers, strict=True)])

    def _random(self, model: Model, given: CellInput, work: Work, runner: Runner) -> pd.DataFrame:
        """The shift of each gene by the same architecture with random weights."""
        backbone = random_backbone(model, self.seed)
        reader = make_reader(model, given.tokenizer, work.settings.tokens_per_batch, backbone, bf16=self.bf16)
        other, _ = self._runner(runner.design, runner.change, reader, given.tokenizer, work, "random")
        rows = self._run(other, work, "random")
        table = cell_table(rows, runner.design, given.tokenizer.require_vocab())
        return table.groupby("gene")["shift"].mean().rename("shift_random").reset_index()

    def _with_expression(self, genes: pd.DataFrame, design: Design, tokenizer: Tokenizer) -> pd.DataFrame:
        if not design.has_goal:
            return genes
        vocab = tokenizer.require_vocab()
        single = {name_set(group, vocab)[0]: group[0] for group in design.sets if len(group) == 1}
        chosen = np.flatnonzero(genes["gene"].isin(list(single)))
        tokens = np.array([single[name] for name in genes["gene"].iloc[chosen]], dtype=np.int64)
        found = expression_baselines(design.cells, design.state, tokens)
        return genes.join(found.set_index(chosen))

    def _change(self, cells: CellInput) -> Change:
        """The operation.

        Raises:
            ValueError: it needs what the model or the cells do not have.
        """
        vocab = cells.tokenizer.require_vocab()
        if self.op == "scale" and (self.factor < 0 or not cells.cells.is_counts):
            given = f"factor={self.factor} and {cells.cells.counts_from}"
            raise ValueError(f"analysis.op=scale needs counts and a factor of 0 or more; got {given}")
        if self.part_size < 1 or self.min_cells < 1 or min(self.permutations, self.controls, self.screen) < 0:
            raise ValueError("part_size and min_cells must be 1 or more, permutations, controls and screen 0 or more")
        if self.screen and (self.op != "delete" or self.genes != "all" or self.goal is None or self.controls < 10):
            raise ValueError(
                f"analysis.screen={self.screen} orders deletions of all genes towards a goal and compares them with "
                "random ones: it needs analysis.op=delete, analysis.genes=all, analysis.goal=... and 10 controls"
            )
        mask = vocab.special("mask") if self.op == "mask" else None
        return Change(self.op, self.factor, self.refill, mask)

    def _truth(self, cells: CellInput) -> set[int] | None:
        if self.truth is None:
            return None
        if not Path(self.truth).is_file():
            raise FileNotFoundError(f"truth={self.truth} does not exist; expected a file of genes, one a line")
        names = [line.split("\t")[0].strip() for line in Path(self.truth).read_text().splitlines() if line.strip()]
        return {int(gene) for gene in find_genes(cells, names) if gene >= 0}

    def _measured(self, model: Model, cells: CellInput) -> Measured | None:
        if self.stimulated is None:
            return None
        if self.state is None or self.start is None or self.goal is None or self.truth is not None:
            raise ValueError(
                "analysis.stimulated=... needs analysis.state, analysis.start and analysis.goal, the two states that "
                "its cells are in, and takes the place of analysis.truth"
            )
        return measure_change(
            model, cells, self.stimulated, state=self.state, names=(self.start, self.goal), donor=self.donor,
            min_change=self.min_change, seed=self.seed,
        )  # fmt: skip

    def _question(self, limit: int, left: np.ndarray | None) -> Question:
        return Question(
            genes=self.genes, jointly=self.jointly, pairs=self.pairs, anchor=self.anchor,
            inserts=self.op == "overexpress", state=self.state, start=self.start, goal=self.goal, alt=list(self.alt),
            donor=self.donor, where=self.where, max_cells=self.max_cells, min_cells=self.min_cells,
            controls=self.controls, limit=limit, left=left, seed=self.seed,
        )  # fmt: skip


def _sentence(estimate: dict[str, float]) -> str:
    return (
        f"{estimate['perturbations']:,} perturbations of {estimate['tokens']:,} tokens: about "
        f"{estimate['seconds'] / 60:.1f} minutes at the speed measured on the unchanged cells."
    )
