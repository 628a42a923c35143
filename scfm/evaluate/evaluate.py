"""``scfm-evaluate``: an embedding beside what a user would pick instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from scfm.evaluate import baselines as baseline
from scfm.evaluate.annotation import name_cells
from scfm.evaluate.cells import Cells, read_cells, thin
from scfm.evaluate.correction import pseudo_kept
from scfm.evaluate.cost import Cost
from scfm.evaluate.expression import Expression
from scfm.evaluate.folds import Fold, read_split
from scfm.evaluate.result import Result
from scfm.evaluate.scores import control_scaled, judged_groups, score_embeddings, write_scores
from scfm.evaluate.trajectory import order_cells, ordering_folds
from scfm.evaluate.verdict import annotation_verdict, integration_verdict, ordering_verdict, pretraining_verdict
from scfm.head.annotation.label_layer import UNKNOWN
from scfm.metrics.correction import correction_scores
from scfm.metrics.integration import BATCH, BIO, VERSION
from scfm.report.evaluation import present

logger = logging.getLogger(__name__)

#: counts (B, G) -> (B, D) embedding, or (B,) bool
Encoder = Callable[[csr_matrix], np.ndarray]


TITLES = {
    "pca": "PCA",
    "hvg": "HVG",
    "harmony": "Harmony",
    "combat": "ComBat",
    "scvi": "scVI",
    "scanvi": "scANVI",
    "random": "control: random",
    "shuffled": "control: shuffled",
    "label_onehot": "control: labels",
}
#: Names of what :mod:`scfm.training.backbones` embeds with.
FROZEN, UNTRAINED = "frozen backbone", "random weights"


@dataclass(frozen=True)
class Embeddings:
    """What stands side by side.

    Attributes:
        values: (B, D) by name; the one in question first, PCA always there.
        costs: seconds and megabytes by name.
        makers: the baselines that integrate by batch, to run on pseudo-batches.
    """

    values: dict[str, np.ndarray]
    costs: pd.DataFrame
    makers: dict[str, baseline.Embedder]


def evaluate(
    adata: AnnData,
    *,
    output: Path,
    embedding: str = "X_scfm",
    label: str | None = None,
    batch: str | None = None,
    group: str | None = None,
    layer: str | None = None,
    split: Path | None = None,
    beside: Sequence[str] = (),
    baselines: Sequence[str] = ("pca", "hvg", "harmony", "combat"),
    controls: bool = True,
    condition: str | None = None,
    finer: str | None = None,
    time: str | None = None,
    stages: list[str] | None = None,
    folds: int = 5,
    draws: int = 200,
    shots: Sequence[float] = (),
    leiden: bool = False,
    max_cells: int = 20_000,
    seed: int = 0,
    n_jobs: int = 1,
    encoders: Mapping[str, Encoder] | None = None,
    corpora: Mapping[str, Encoder] | None = None,
    taught: Encoder | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score an embedding; leave tables, pictures and one report.

    Args:
        adata: cells with the embedding in ``obsm`` and counts; not modified.
        output: folder for ``scores.json``, ``scores.csv``, PNG pictures and ``report.html``.
        embedding: key of ``obsm``.
        label: obs column of cell types; None: mixing only.
        batch: obs column of batches; None: no batch metrics.
        group: obs column that is kept whole in splits (donor); None takes ``batch``.
        layer: where the counts are; None finds them.
        split: split.csv of the fine-tune that made the embedding: only its test cells are judged.
        beside: further keys of ``obsm`` to score beside it.
        baselines: of ``pca, hvg, harmony, combat, scvi, scanvi``; PCA is always there, those that need a batch column
            are left out without one.
        controls: also score random, shuffled and label embeddings, and scale the scores by them.
        condition: obs column whose effect inside types should survive integration.
        finer: obs column of subtypes, finer than what the embedding was made for.
        time: obs column of known times or stages: judge the pseudotime in ``obs["scfm_pseudotime"]`` and others.
        stages: the categories of ``time`` from first to last; None: they are numbers.
        folds: of the cross-validation.
        draws: bootstrap resamples.
        shots: shares of the training labels for few-shot curves.
        leiden: also the NMI with Leiden clusters of the best resolution.
        max_cells: above, a random part of the cells is scored, and the report says so.
        seed: of everything random.
        n_jobs: threads for neighbours; -1 for all.
        encoders: further embeddings by name, made of counts: backbones.
        corpora: by name of a pretraining corpus, which cells are in it, of counts.
        taught: which cells are in the store that the head was fine-tuned on, of counts; None where it is not known.
        about: further settings for the report.

    Returns:
        ``summary`` (sentences), ``notes``, ``annotation``, ``integration``, ``scaled``, ``correction`` and
        ``trajectory`` (scores by method), ``metrics`` (definitions), ``settings``, ``files``.

    Raises:
        ValueError: see :func:`scfm.evaluate.cells.read_cells`; an unknown baseline.
        ImportError: a baseline's package is not installed.
    """
    _check_baselines(baselines)
    cells = read_cells(
        adata, embedding=embedding, label=label, batch=batch, group=group, layer=layer, beside=beside,
        condition=condition, finer=finer, time=time, stages=stages,
    )  # fmt: skip
    cells, notes = _thinned(cells, max_cells, seed)
    made = make_embeddings(cells, embedding, baselines, controls, seed, encoders or {})
    cells = replace(cells, others={name: made.values[name] for name in (*cells.others, *(encoders or {}))})
    judged = np.arange(len(cells)) if split is None else _test_cells(cells, split, notes)
    notes += _overlaps(cells, judged, corpora or {})
    naming = ordering = None
    if label is not None:
        if not _head_is_judged(cells, label, split, taught, notes):
            cells = replace(cells, called=None)
        naming = name_cells(cells, embedding, split=split, n_folds=folds, n_draws=draws, seed=seed, shots=shots)
    if time is not None:
        ordering = order_cells(cells, embedding, _ordering_folds(cells, split, folds, seed), seed)
    scores = score_embeddings(cells, made.values, judged, seed=seed, n_jobs=n_jobs, leiden=leiden)
    scaled = control_scaled(scores, [name for name in scores.index if _is_control(name)]) if controls else None
    found = Result(naming, ordering, scores.join(made.costs), scaled, correction_table(cells, made, judged, seed))
    summary = _summary(embedding, label, found)
    for sentence in [*summary, *notes]:
        logger.info(sentence)
    settings = {
        "embedding": embedding, "label": label, "batch": batch, "group": group, "split": str(split) if split else None,
        "condition": condition, "finer": finer, "time": time, "folds": folds, "draws": draws, "max_cells": max_cells,
        "seed": seed, "cells": len(cells), "counts": cells.expression.counts_from, "metrics": VERSION, **(about or {}),
    }  # fmt: skip
    shown = {name: made.values[name] for name in (embedding, *cells.others, "PCA")}
    files = present(
        output, cells, shown, found, summary=summary, notes=notes, about=settings, ours=embedding, seed=seed,
        n_jobs=n_jobs,
    )  # fmt: skip
    result = {"summary": summary, "notes": notes, **found.tables(), "settings": settings} | {
        "metrics": {"version": VERSION, "bio": BIO, "batch": BATCH, "total": "0.4 batch + 0.6 bio"}
    }
    return {**result, "files": [*files, *write_scores(output, result, tuple(found.tables()))]}


def make_embeddings(
    cells: Cells,
    ours: str,
    baselines: Sequence[str],
    controls: bool,
    seed: int,
    encoders: Mapping[str, Encoder],
) -> Embeddings:
    """The embedding in question, those beside it, the baselines and the controls, and what each cost."""
    values = {ours: cells.embedding, **cells.others}
    costs: dict[str, dict[str, float]] = {}
    wanted = ["pca", *(name for name in baselines if name != "pca"), *(baseline.CONTROLS if controls else ())]
    makers: dict[str, Callable[[], np.ndarray]] = {
        name: partial(_encoded, encode, cells.expression) for name, encode in encoders.items()
    }
    for name in wanted:
        given = {"batch": cells.batch, "label": cells.labels}
        needed = {"batch": baseline.NEEDS_BATCH, "label": baseline.NEEDS_LABEL}
        lacking = [f"{role}=COLUMN" for role in given if name in needed[role] and given[role] is None]
        if lacking:
            logger.info("%s is left out: it needs %s", TITLES[name], " and ".join(lacking))
            continue
        makers[TITLES[name]] = partial(baseline.embed, name, cells.expression, cells.batch, cells.labels, seed)
    for title, make in makers.items():
        with Cost() as cost:
            values[title] = make()
        costs[title] = {"seconds": cost.seconds, "megabytes": cost.megabytes}
    integrating = {TITLES[name]: baseline.EMBEDDERS[name] for name in ("harmony", "combat") if name in wanted}
    return Embeddings(values, pd.DataFrame.from_dict(costs, orient="index"), integrating)


def _integrated(make: baseline.Embedder, seed: int, expression: Expression, batch: np.ndarray) -> np.ndarray:
    return make(expression, batch, None, seed)


def _encoded(encode: Encoder, expression: Expression) -> np.ndarray:
    return np.nan_to_num(np.asarray(encode(expression.counts), dtype=np.float64))


def correction_table(cells: Cells, made: Embeddings, judged: np.ndarray, seed: int) -> pd.DataFrame | None:
    """Over- and under-correction of all but the controls; None without types or batches."""
    rows, labels, batch = judged_groups(cells, judged)
    if labels is None or batch is None or cells.labels is None:
        return None
    values = {name: found[rows] for name, found in made.values.items() if not _is_control(name)}
    table = correction_scores(
        values, cells.labels[rows], batch,
        condition=None if cells.condition is None else cells.condition[rows],
        finer=None if cells.finer is None else cells.finer[rows],
        unfitted=made.values[FROZEN][rows] if FROZEN in made.values else None,
        seed=seed,
    )  # fmt: skip
    part = cells.expression.select(rows)
    for name, make in made.makers.items():
        method = partial(_integrated, make, seed)
        table.loc[name, "pseudo_kept"] = pseudo_kept(method, part, batch, seed)
    return table


def _thinned(cells: Cells, max_cells: int, seed: int) -> tuple[Cells, list[str]]:
    if len(cells) <= max_cells:
        return cells, []
    rows = np.sort(np.random.default_rng(seed).choice(len(cells), max_cells, replace=False))
    return thin(cells, rows), [f"{max_cells:,} of {len(cells):,} cells were drawn at random and scored (max_cells)."]


def _test_cells(cells: Cells, split: Path, notes: list[str]) -> np.ndarray:
    """Rows of the test cells of a fine-tune, the labelled ones where there are labels; and a note that says so."""
    codes = cells.codes if cells.labels is not None else np.zeros(len(cells), dtype=np.int64)
    rows = np.sort(read_split(split, list(cells.names), codes)[0][1])
    notes.append(f"All scores are of the {len(rows):,} test cells of {split}; no label of theirs was learned from.")
    return rows


def _ordering_folds(cells: Cells, split: Path | None, n_folds: int, seed: int) -> list[Fold]:
    assert cells.times is not None
    if split is None:
        return ordering_folds(cells.times, cells.group, n_folds, seed)
    return read_split(split, list(cells.names), np.where(np.isfinite(cells.times), 0, -1))


def _overlaps(cells: Cells, judged: np.ndarray, corpora: Mapping[str, Encoder]) -> list[str]:
    """A note for each corpus that holds some of the judged cells."""
    notes = []
    for name, among in corpora.items():
        share = float(np.asarray(among(cells.expression.counts))[judged].mean())
        if share > 0:
            notes.append(
                f"{share:.1%} of the judged cells are in {name}, which the backbone was pretrained on (without "
                "labels); scores on cells that it never saw may be lower."
            )
    return notes


def _head_is_judged(cells: Cells, label: str, split: Path | None, taught: Encoder | None, notes: list[str]) -> bool:
    """Whether the head's own names of the cells are judged, and a note that says why or why not."""
    if cells.called is None:
        return False
    if split is None and taught is None:
        notes.append(
            f"The names in obs['scfm_{label}'] are not judged: whether their head learned from these very cells is "
            "not known; give split=RUN/split.csv, so that only its test cells are."
        )
        return False
    if split is None and taught is not None:
        share = float(np.asarray(taught(cells.expression.counts))[cells.codes >= 0].mean())
        if share > 0:
            notes.append(
                f"{share:.1%} of the labelled cells are in the store that this embedding was fine-tuned on, so that "
                "scores flatter it, and the names its head gave are not judged: give split=RUN/split.csv, so that "
                "only its test cells are."
            )
            return False
        notes.append(
            "No cell of this file is in the store that the head was fine-tuned on: its names are judged on all "
            "labelled cells, while the methods beside it learn from labels of this very file, by cross-validation."
        )
    foreign = sorted(set(cells.called) - {*cells.classes, UNKNOWN, ""})
    if foreign:
        listed = ", ".join(map(repr, foreign[:8])) + (", ..." if len(foreign) > 8 else "")
        notes.append(f"The head calls cells {listed}, which is no class of {label!r} here: such calls count as wrong.")
    return True


def _check_baselines(names: Sequence[str]) -> None:
    known = [name for name in TITLES if name not in baseline.CONTROLS]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"baselines={list(names)}: {', '.join(wrong)} is unknown; choose from {', '.join(known)}")


def _is_control(name: str) -> bool:
    return name.startswith("control")


def _summary(ours: str, label: str | None, found: Result) -> list[str]:
    sentences = []
    if found.naming is not None:
        naming = found.naming
        fair = naming.scores.drop(index=naming.beside)
        sentences.append(annotation_verdict(str(label), naming.draws, fair, naming.ours))
        sentences += pretraining_verdict(naming.scores, naming.ours, FROZEN, UNTRAINED)
    if found.ordering is not None:
        sentences.append(ordering_verdict(found.ordering.scores, found.ordering.ours))
    simple = {TITLES[name] for name in TITLES if name not in baseline.CONTROLS}
    rivals = [name for name in found.scores.index if name in simple]
    score = next((name for name in ("total", "bio", "ilisi") if name in found.scores), None)
    return [*sentences, integration_verdict(found.scores, ours, rivals, score)] if score else sentences
