"""Pictures, tables and the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scfm import plot
from scfm.evaluate.cells import Cells
from scfm.evaluate.result import Result
from scfm.metrics.correction import EXPLAINED as OF_CORRECTION
from scfm.metrics.integration import BATCH, BIO, VERSION
from scfm.metrics.umap import umap
from scfm.report.annotation import naming_figures, naming_parts
from scfm.report.html import Section, paragraph, picture, settings, table, versions, warning, write_report
from scfm.report.trajectory import ordering_figures, ordering_parts

EXPLAINED = (
    f"Metrics: {VERSION}. Bio: {', '.join(BIO)}. Batch: {', '.join(BATCH)}. Total: 0.4 batch + 0.6 bio. 1 is best. "
    "In no mean: CiLISI (batch mixing inside types), scGraph (do types lie as they do inside batches?), kSIM (purity "
    "of neighbourhoods), kept neighbors (of PCA, inside batches). Controls show what a score is worth: one knows "
    "nothing, one has its cells shuffled, one knows only the labels. Totals of other versions or tools do not compare."
)
#: Single metrics that are also shown on the controls' scale.
SCALED = ("nmi", "silhouette_label", "clisi", "ilisi", "kbet", "cilisi", "scgraph")
FEW = ["total", "bio", "batch", "ilisi"]


def present(
    output: Path,
    cells: Cells,
    shown: Mapping[str, np.ndarray],
    found: Result,
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
        found: scores and what they were made of.
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
            plot.maps(coordinates, _colourings(cells, found)),
            "The same cells by each embedding (UMAP, 15 neighbours).",
        )
    }
    few = [name for name in FEW if name in found.scores]
    if few:
        caption = "Embeddings by their scores; 1 is best."
        figures["integration"] = (plot.score_bars(found.scores[few], highlight=ours), caption)
    if found.naming is not None:
        figures |= naming_figures(cells, found.naming)
    if found.ordering is not None:
        figures |= ordering_figures(cells.expression, found.ordering)
    paths = {name: output / f"{name}.png" for name in figures}
    drawn = {name: picture(figure, caption, paths[name]) for name, (figure, caption) in figures.items()}
    sections = [
        Section("", [*map(paragraph, summary)], "summary"),
        Section("", [*map(warning, notes)]),
        Section("Naming cells", naming_parts(found.naming, drawn)),
        Section("Ordering cells", ordering_parts(found.ordering, drawn)),
        Section(
            "Embeddings", [*_scores_tables(found.scores, ours), drawn.get("integration", ""), paragraph(EXPLAINED)]
        ),
        Section("Between the controls", _scaled_parts(found.scaled, ours)),
        Section("Too little or too much", _correction_parts(found.correction, ours)),
        Section("Maps", [drawn["umap"]]),
        Section("Settings", [settings(about)]),
        Section("Versions", [settings(versions())]),
    ]
    return [*map(str, paths.values()), str(write_report(output / "report.html", f"Evaluation of {ours}", sections))]


def _colourings(cells: Cells, found: Result) -> dict[str, np.ndarray]:
    names = {
        "label": cells.labels,
        "batch": cells.batch,
        "condition": cells.condition,
        "predicted label": cells.called,
    }
    shown = {name: np.where(values == "", "(missing)", values) for name, values in names.items() if values is not None}
    if found.ordering is not None:
        shown |= {"pseudotime": found.ordering.shown, "known time": found.ordering.truth}
    return shown


def _scores_tables(scores: pd.DataFrame, ours: str) -> list[str]:
    """Means and types in one table, batches and geometry in another, so that both fit a page."""
    real = [name for name in scores.index if not str(name).startswith("control")]
    costs = ("seconds", "megabytes")
    first = [name for name in ("total", "bio", "batch", *BIO, "nmi_leiden", *costs) if name in scores]
    rest = [name for name in (*BATCH, "cilisi", "scgraph", "ksim", "kept_neighbors") if name in scores]
    free = [*costs, "kept_neighbors"]
    return [table(scores[part], contenders=real, unranked=free, own=[ours]) for part in (first, rest) if part]


def _scaled_parts(scaled: pd.DataFrame | None, ours: str) -> list[str]:
    if scaled is None or "total" not in scaled:
        return []
    text = "(x − worst control) / (best control − worst control): 0 is as bad as the worst control, 1 as the best; "
    text += "nothing where the controls differ by less than 0.1."
    columns = [name for name in ("total", "bio", "batch", *SCALED) if name in scaled]
    return [table(scaled[columns], own=[ours]), paragraph(text)]


def _correction_parts(correction: pd.DataFrame | None, ours: str) -> list[str]:
    if correction is None or correction.empty:
        return []
    text = "; ".join(f"{name.replace('_', ' ')}: {what}" for name, what in OF_CORRECTION.items() if name in correction)
    return [
        table(correction, unranked=list(correction.columns), own=[ours]),
        paragraph(f"{text[0].upper()}{text[1:]}."),
    ]
