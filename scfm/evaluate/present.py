"""Pictures, tables and the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scfm import plot
from scfm.evaluate.annotation import rejection_curve
from scfm.evaluate.integration import BATCH, BIO, VERSION
from scfm.evaluate.naming import Naming
from scfm.evaluate.report import (
    Section,
    paragraph,
    picture,
    settings,
    side_by_side,
    table,
    versions,
    warning,
    write_report,
)
from scfm.evaluate.table import Cells
from scfm.evaluate.umap import umap
from scfm.head.annotation.score import reliability

EXPLAINED = (
    f"Metrics: {VERSION}. Bio: {', '.join(BIO)}. Batch: {', '.join(BATCH)}. Total: 0.4 batch + 0.6 bio. 1 is best. "
    "In no mean: CiLISI (batch mixing inside types), scGraph (do types lie as they do inside batches?), kSIM (purity "
    "of neighbourhoods), kept neighbors (of PCA, inside batches). Controls show what a score is worth: one knows "
    "nothing, one has its cells shuffled, one knows only the labels. Totals of other versions or tools do not compare."
)
FEW = ["total", "bio", "batch", "ilisi"]


def present(
    output: Path,
    cells: Cells,
    shown: Mapping[str, np.ndarray],
    scores: pd.DataFrame,
    naming: Naming | None,
    *,
    summary: Sequence[str],
    notes: Sequence[str],
    about: Mapping[str, Any],
    ours: str,
    seed: int,
    n_jobs: int,
) -> list[str]:
    """Draw, and write PNG pictures and ``report.html``.

    Args:
        output: folder.
        cells: what was evaluated.
        shown: the embeddings to draw maps of.
        scores: embeddings × metrics.
        naming: the annotation, where there were labels.
        summary: the sentences on top.
        notes: what a reader must know about the scores.
        about: settings of the evaluation.
        ours: the embedding in question.
        seed: of the maps.
        n_jobs: threads.

    Returns:
        Paths of the files.
    """
    coordinates = {name: umap(values, seed=seed, n_jobs=n_jobs) for name, values in shown.items()}
    figures: dict[str, tuple[Figure, str]] = {
        "umap": (
            plot.maps(coordinates, _colourings(cells)),
            "The same cells by both embeddings (UMAP, 15 neighbours).",
        ),
        "integration": (
            plot.score_bars(scores[[name for name in FEW if name in scores]], highlight=ours),
            "Embeddings by their scores; 1 is best.",
        ),
    }
    if naming is not None:
        figures |= _naming_figures(cells, naming)
    paths = {name: output / f"{name}.png" for name in figures}
    drawn = {name: picture(figure, caption, paths[name]) for name, (figure, caption) in figures.items()}
    sections = [
        Section("", [*map(paragraph, summary)], "summary"),
        Section("", [*map(warning, notes)]),
        Section("Naming cells", _naming_parts(naming, drawn)),
        Section("Embeddings", [*_scores_tables(scores, ours), drawn["integration"], paragraph(EXPLAINED)]),
        Section("Maps", [drawn["umap"]]),
        Section("Settings", [settings(about)]),
        Section("Versions", [settings(versions())]),
    ]
    return [*map(str, paths.values()), str(write_report(output / "report.html", f"Evaluation of {ours}", sections))]


def _colourings(cells: Cells) -> dict[str, np.ndarray]:
    found = {"label": cells.labels, "batch": cells.batch, "predicted label": cells.called}
    return {name: np.where(values == "", "(missing)", values) for name, values in found.items() if values is not None}


def _naming_figures(cells: Cells, naming: Naming) -> dict[str, tuple[Figure, str]]:
    best = naming.scores.loc[naming.ours, "macro_f1"].idxmax()
    calls = naming.calls[best]
    names = np.array([*cells.classes, "unknown"], dtype=object)
    right = {name: own.codes == cells.codes[own.rows] for name, own in naming.calls.items()}
    limits = {name: (row["low"], row["high"]) for name, row in naming.scores.iterrows()}
    named = calls.codes >= 0
    return {
        "annotation": (
            plot.score_bars(
                naming.scores[["macro_f1", "accuracy", "balanced_accuracy"]], highlight=best, errors=limits
            ),
            "Methods on the same test cells; the line is the 95 % interval over resampled groups.",
        ),
        "confusion": (
            plot.confusion_matrix(names[cells.codes[calls.rows]], names[calls.codes], title=f"{best}, test cells"),
            f"What {best} called the test cells; a row is a true class and sums to 100 %.",
        ),
        "reliability": (
            plot.reliability_diagram(reliability(calls.confidence[named], right[best][named]), title=best),
            "Whether confidence means what it says: a cell of confidence 0.8 should be right in 8 of 10 cases.",
        ),
        "rejection": (
            plot.rejection_curve(
                {
                    n: rejection_curve(own.confidence, right[n])
                    for n, own in naming.calls.items()
                    if n != "majority class"
                }
            ),
            "Accuracy when the least sure cells are left unnamed.",
        ),
    }


def _naming_parts(naming: Naming | None, drawn: Mapping[str, str]) -> list[str]:
    if naming is None:
        return []
    shown = naming.scores.rename(columns={"low": "95 % from", "high": "to", "n_cells": "cells", "ece": "ECE"})
    text = (
        f"Split: {naming.split}. Nothing is fitted on test cells, neither the choice of genes nor a scale. Macro-F1 is "
        "the mean over classes, so that rare types count as much as common ones; ECE is the calibration error; "
        "coverage the share that was named at all."
    )
    scores = table(
        shown,
        smaller_is_better=["ECE", "seconds"],
        unranked=["95 % from", "to", "cells", "coverage", "seconds"],
        own=naming.ours,
    )
    return [
        scores,
        paragraph(text),
        drawn["annotation"],
        drawn["confusion"],
        side_by_side(drawn["reliability"], drawn["rejection"]),
    ]


def _scores_tables(scores: pd.DataFrame, ours: str) -> list[str]:
    """Means and types in one table, batches and geometry in another, so that both fit a page."""
    real = [name for name in scores.index if not str(name).startswith("control")]
    first = [name for name in ("total", "bio", "batch", *BIO, "seconds") if name in scores]
    rest = [name for name in (*BATCH, "cilisi", "scgraph", "ksim", "kept_neighbors") if name in scores]
    free = ["seconds", "kept_neighbors"]
    return [table(scores[part], contenders=real, unranked=free, own=[ours]) for part in (first, rest) if part]
