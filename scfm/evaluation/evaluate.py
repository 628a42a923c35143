"""An embedding beside what a user would take instead: computes, and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluation.annotation import Annotation, score_annotation
from scfm.evaluation.cells import Cells, read_cells, select
from scfm.evaluation.correction import pseudo_kept
from scfm.evaluation.folds import Fold, read_split
from scfm.evaluation.methods.baselines import BASELINES, Embedder
from scfm.evaluation.methods.components import state_key
from scfm.evaluation.methods.embeddings import (
    Embeddings,
    baseline_embeddings,
    check_baselines,
    component_embeddings,
    file_embeddings,
)
from scfm.evaluation.methods.expression import Expression
from scfm.evaluation.methods.method import FROZEN, names
from scfm.evaluation.methods.rivals import check_rivals
from scfm.evaluation.options import Options
from scfm.evaluation.origin.origin import Origin, check_corpora, check_head, foreign_classes
from scfm.evaluation.result import Result
from scfm.evaluation.scores import scale_by_controls, score_embeddings, select_labeled
from scfm.evaluation.trajectory import Trajectory, score_trajectory, trajectory_folds
from scfm.evaluation.verdict import (
    annotation_verdict,
    component_verdict,
    integration_sentences,
    pretraining_verdict,
    trajectory_verdict,
)
from scfm.metrics.correction import correction_scores
from scfm.metrics.integration import VERSION
from scfm.metrics.neighbors import remember_neighbors


@remember_neighbors()
def evaluate(
    adata: AnnData,
    options: Options | None = None,
    *,
    origin: Origin | None = None,
    about: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Result:
    """Score an embedding beside baselines, controls and its own backbone.

    Args:
        adata: cells with the embedding in ``obsm`` and counts; not modified.
        options: what is evaluated, and how.
        origin: backbones to compare with, and the stores that the embedding was trained on.
        about: further settings for the result.
        **keywords: attributes of :class:`scfm.evaluation.options.Options`, in place of those of ``options``.

    Returns:
        Scores, sentences, notes and settings.

    Raises:
        ValueError: see :func:`scfm.evaluation.cells.read_cells`; an unknown baseline or rival.
        TypeError: a keyword that is no option.
    """
    options, origin = replace(options or Options(), **keywords), origin or Origin()
    check_baselines(list(options.baselines))
    check_rivals(list(options.rivals))
    cells, notes = read_cells(adata, options)
    cells, more = _thin(cells, options)
    rows, others = _scored_rows(cells, options)
    notes = [*notes, *more, *others, *check_corpora(cells, rows, origin.corpora)]
    cells, more = _check_head(cells, options, origin)
    given = file_embeddings(cells, options.embedding, origin.encoders)
    simple, absent = baseline_embeddings(cells, options)
    spaces = given | simple
    annotation, trajectory = _annotation(cells, given, options), _trajectory(cells, given, options)
    scores = _tables(cells, spaces, rows, options)
    if annotation is not None:
        scores = {"annotation": annotation.scores, **scores}
    if trajectory is not None:
        scores = {**scores, "trajectory": trajectory.scores}
    shown = (options.embedding, *cells.others, *origin.encoders, "PCA")
    return Result(
        embedding=options.embedding,
        summary=_summary(options, annotation, trajectory, scores["integration"], spaces),
        notes=[*notes, *more, *absent],
        scores=scores,
        methods=spaces.methods,
        settings=_settings(options, cells) | dict(about or {}),
        cells=cells,
        embeddings={name: spaces.values[name] for name in shown},
        annotation=annotation,
        trajectory=trajectory,
    )


def _thin(cells: Cells, options: Options) -> tuple[Cells, list[str]]:
    if len(cells) <= options.max_cells:
        return cells, []
    drawn = np.random.default_rng(options.seed).choice(len(cells), options.max_cells, replace=False)
    text = f"{options.max_cells:,} of {len(cells):,} cells were drawn at random and scored (max_cells)."
    return select(cells, np.sort(drawn)), [text]


def _scored_rows(cells: Cells, options: Options) -> tuple[np.ndarray, list[str]]:
    """All rows, or those of the test cells of a fine-tune, the labeled ones where there are labels; and a note."""
    if options.split is None:
        return np.arange(len(cells)), []
    codes = cells.codes if cells.labels is not None else np.zeros(len(cells), dtype=np.int64)
    rows = np.sort(read_split(Path(options.split), list(cells.names), codes)[0][1])
    return rows, [
        f"All scores are of the {len(rows):,} test cells of {options.split}; no label of theirs was learned from."
    ]


def _check_head(cells: Cells, options: Options, origin: Origin) -> tuple[Cells, list[str]]:
    """The cells without the head's own names where these cannot be scored, and notes that say so."""
    if cells.called is None or options.label is None:
        return cells, []
    notes = []
    if options.split is None:
        fair, note = check_head(cells, options.label, origin.training)
        notes.append(note)
        if not fair:
            return replace(cells, called=None, guessed=None, voted=None, confidence=None), notes
    return cells, [*notes, *foreign_classes(cells, options.label)]


def _annotation(cells: Cells, given: Embeddings, options: Options) -> Annotation | None:
    if cells.labels is None:
        return None
    return score_annotation(cells, given | component_embeddings(cells, options.embedding), options)


def _trajectory(cells: Cells, given: Embeddings, options: Options) -> Trajectory | None:
    if cells.times is None:
        return None
    folds: list[Fold]
    if options.split is None:
        folds = trajectory_folds(cells.times, cells.group, options.folds, options.seed)
    else:
        folds = read_split(Path(options.split), list(cells.names), np.where(np.isfinite(cells.times), 0, -1))
    return score_trajectory(cells, given, folds, options.seed)


def _tables(cells: Cells, spaces: Embeddings, rows: np.ndarray, options: Options) -> dict[str, pd.DataFrame]:
    """The tables of embeddings: ``integration`` and, where there is what they need, ``scaled`` and ``correction``."""
    scores = score_embeddings(
        cells, spaces.values, rows, seed=options.seed, n_jobs=options.n_jobs, leiden=options.leiden
    )
    tables = {"integration": scores.join(spaces.costs)}
    if options.controls:
        tables["scaled"] = scale_by_controls(scores, names(spaces.methods, "control"))
    correction = correction_table(cells, spaces, rows, options.seed)
    return tables if correction is None else {**tables, "correction": correction}


def correction_table(cells: Cells, spaces: Embeddings, rows: np.ndarray, seed: int) -> pd.DataFrame | None:
    """Over- and under-correction of all embeddings but the controls; None without types or batches."""
    rows, labels, batch = select_labeled(cells, rows)
    if labels is None or batch is None or cells.labels is None:
        return None
    values = {name: spaces.values[name][rows] for name in names(spaces.methods, "ours", "rival", "ablation")}
    table = correction_scores(
        values,
        cells.labels[rows],
        batch,
        condition=None if cells.condition is None else cells.condition[rows],
        finer=None if cells.finer is None else cells.finer[rows],
        unfitted=values.get(FROZEN),
        seed=seed,
    )
    part = cells.expression.select(rows)
    for baseline in BASELINES.values():
        if baseline.repeatable and baseline.title in values:
            method, start = (partial(_integrate, make, seed) for make in (baseline.make, baseline.start))
            table.loc[baseline.title, "pseudo_kept"] = pseudo_kept(method, part, batch, seed, start)
    return table


def _integrate(make: Embedder, seed: int, expression: Expression, batch: np.ndarray) -> np.ndarray:
    return make(expression, batch, None, seed)


def _summary(
    options: Options,
    annotation: Annotation | None,
    trajectory: Trajectory | None,
    integration: pd.DataFrame,
    spaces: Embeddings,
) -> list[str]:
    sentences = []
    if annotation is not None:
        sentences.append(annotation_verdict(str(options.label), annotation))
        sentences += component_verdict(options.embedding, state_key(options.embedding), annotation)
        sentences += pretraining_verdict(annotation)
    if trajectory is not None:
        sentences += trajectory_verdict(trajectory)
    return [*sentences, *integration_sentences(integration, spaces.methods, options.embedding)]


def _settings(options: Options, cells: Cells) -> dict[str, Any]:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
    plain["split"] = None if options.split is None else str(options.split)
    return {**plain, "cells": len(cells), "counts": cells.expression.counts_from, "metrics": VERSION}
