"""``scfm-evaluate``: an embedding beside what a user would pick instead."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluate import baseline
from scfm.evaluate.integration import BATCH, BIO, VERSION, integration_scores
from scfm.evaluate.naming import Naming, name_cells
from scfm.evaluate.present import present
from scfm.evaluate.silhouette import codes_of
from scfm.evaluate.structure import consensus_distances, ksim, neighbor_overlap, scgraph
from scfm.evaluate.table import Cells, read_cells, thin
from scfm.evaluate.verdict import annotation_verdict, integration_verdict

logger = logging.getLogger(__name__)

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
    baselines: Sequence[str] = ("pca", "hvg", "harmony", "combat"),
    controls: bool = True,
    folds: int = 5,
    draws: int = 200,
    max_cells: int = 20_000,
    seed: int = 0,
    n_jobs: int = 1,
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
        baselines: of ``pca, hvg, harmony, combat, scvi, scanvi``; PCA is always there, those that need a batch column
            are left out without one.
        controls: also score random, shuffled and label embeddings.
        folds: of the cross-validation.
        draws: bootstrap resamples.
        max_cells: above, a random part of the cells is scored, and the report says so.
        seed: of everything random.
        n_jobs: threads for neighbours; -1 for all.
        about: further settings for the report.

    Returns:
        ``summary`` (sentences), ``integration`` and ``annotation`` (scores by method), ``metrics`` (definitions),
        ``files``.

    Raises:
        ValueError: see :func:`scfm.evaluate.table.read_cells`; an unknown baseline.
        ImportError: a baseline's package is not installed.
    """
    _check_baselines(baselines)
    cells = read_cells(adata, embedding=embedding, label=label, batch=batch, group=group, layer=layer)
    notes = []
    if len(cells) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(len(cells), max_cells, replace=False))
        notes.append(f"{max_cells:,} of {len(cells):,} cells were drawn at random and scored (max_cells).")
        cells = thin(cells, rows)
    naming = None
    if label is not None:
        naming = name_cells(cells, embedding, split=split, n_folds=folds, n_draws=draws, seed=seed)
    embeddings, costs = make_embeddings(cells, embedding, baselines, controls, seed)
    judged = np.sort(naming.calls[naming.ours[0]].rows) if naming and split else np.arange(len(cells))
    if split:
        notes.append(
            f"All scores are of the {len(judged):,} test cells of {split}; no label of theirs was learned from."
        )
    scores = score_embeddings(cells, embeddings, judged, seed, n_jobs)
    scores["seconds"] = pd.Series(costs)
    summary = _summary(embedding, label, naming, scores)
    for sentence in [*summary, *notes]:
        logger.info(sentence)
    settings = {
        "embedding": embedding, "label": label, "batch": batch, "group": group, "split": str(split) if split else None,
        "folds": folds, "draws": draws, "max_cells": max_cells, "seed": seed, "cells": len(cells),
        "counts": cells.expression.counts_from, "metrics": VERSION, **(about or {}),
    }  # fmt: skip
    files = present(
        output, cells, {name: embeddings[name] for name in (embedding, "PCA")}, scores, naming,
        summary=summary, notes=notes, about=settings, ours=embedding, seed=seed, n_jobs=n_jobs,
    )  # fmt: skip
    result = {
        "summary": summary,
        "notes": notes,
        "integration": _plain(scores),
        "annotation": _plain(naming.scores) if naming else {},
        "metrics": {"version": VERSION, "bio": BIO, "batch": BATCH, "total": "0.4 batch + 0.6 bio"},
        "settings": settings,
    }
    return {**result, "files": [*files, *_write(output, result)]}


def make_embeddings(
    cells: Cells, ours: str, baselines: Sequence[str], controls: bool, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The embedding in question, the baselines and the controls, and the seconds that each took."""
    wanted = ["pca", *(name for name in baselines if name != "pca")]
    wanted += baseline.CONTROLS if controls else ()
    found, costs = {ours: cells.embedding}, {ours: float("nan")}
    for name in wanted:
        no_batch = name in baseline.NEEDS_BATCH and cells.batch is None
        if no_batch or (name in baseline.NEEDS_LABEL and cells.labels is None):
            logger.info("%s is left out: it needs a column that was not given", TITLES[name])
            continue
        began = time.perf_counter()
        found[TITLES[name]] = baseline.embed(name, cells.expression, cells.batch, cells.labels, seed)
        costs[TITLES[name]] = time.perf_counter() - began
    return found, costs


def score_embeddings(
    cells: Cells, embeddings: Mapping[str, np.ndarray], rows: np.ndarray, seed: int, n_jobs: int
) -> pd.DataFrame:
    """Embeddings × metrics, over the labelled ones of the given cells.

    Besides :func:`scfm.evaluate.integration.integration_scores`: ``scgraph``, ``ksim`` and ``kept_neighbors``, the
    share of each cell's 30 nearest cells of its own batch that PCA has too.
    """
    if cells.labels is not None:
        rows = rows[cells.codes[rows] >= 0]
    labels = cells.codes[rows] if cells.labels is not None else None
    batch = cells.batch[rows] if cells.batch is not None else None
    if batch is not None and len(set(batch)) < 2:
        logger.warning("the judged cells are all of one batch: no batch scores")
        batch = None
    consensus = None
    if labels is not None and batch is not None:
        part = thin(cells, rows)
        consensus = consensus_distances(part.expression, codes_of(labels), batch)
    plain = embeddings["PCA"][rows]
    table = {}
    for name, values in embeddings.items():
        found = integration_scores(values[rows], labels, batch, plain, seed=seed, n_jobs=n_jobs)
        found["kept_neighbors"] = neighbor_overlap(plain, values[rows], batch)
        if labels is not None:
            found["ksim"] = ksim(values[rows], labels)
        if consensus is not None and labels is not None:
            found["scgraph"] = scgraph(values[rows], codes_of(labels), consensus)["scgraph"]
        table[name] = found
    return pd.DataFrame.from_dict(table, orient="index")


def _check_baselines(names: Sequence[str]) -> None:
    known = [name for name in TITLES if name not in baseline.CONTROLS]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"baselines={list(names)}: {', '.join(wrong)} is unknown; choose from {', '.join(known)}")


def _summary(ours: str, label: str | None, naming: Naming | None, scores: pd.DataFrame) -> list[str]:
    sentences = []
    if naming is not None:
        sentences.append(annotation_verdict(str(label), naming.draws, naming.scores, naming.ours))
    rivals = [name for name in scores.index if name != ours and not name.startswith("control")]
    score = next(name for name in ("total", "bio", "ilisi") if name in scores)
    return [*sentences, integration_verdict(scores, ours, rivals, score)]


def _plain(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return {
        str(name): {column: None if pd.isna(value) else float(value) for column, value in row.items()}
        for name, row in table.iterrows()
    }


def _write(output: Path, result: Mapping[str, Any]) -> list[str]:
    rows = [
        (table, method, metric, value)
        for table in ("annotation", "integration")
        for method, found in result[table].items()
        for metric, value in found.items()
    ]
    frame = pd.DataFrame(rows, columns=["table", "method", "metric", "value"])
    for name, text in (("scores.csv", frame.to_csv(index=False)), ("scores.json", json.dumps(result, indent=1))):
        part = output / f".{name}"
        part.write_text(text, encoding="utf-8")
        part.replace(output / name)
    return [str(output / "scores.csv"), str(output / "scores.json")]
