"""The report of an evaluation: pictures, tables, ``report.html``, ``scores.csv`` and ``scores.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scfm import plot
from scfm.evaluation.methods.method import names
from scfm.evaluation.result import Result
from scfm.io import write_text
from scfm.metrics.correction import EXPLAINED as CORRECTION_METRICS
from scfm.metrics.integration import BATCH, BIO, VERSION
from scfm.metrics.umap import umap
from scfm.page import Section, paragraph, settings, table, versions, warning, write_page
from scfm.report.annotation import Figures, annotation_figures, annotation_parts
from scfm.report.figures import picture
from scfm.report.trajectory import trajectory_figures, trajectory_parts

EXPLAINED = (
    f"Metrics: {VERSION}. Bio: {', '.join(BIO)}. Batch: {', '.join(BATCH)}. Total: 0.4 batch + 0.6 bio. 1 is best. "
    "In no mean: CiLISI (batch mixing inside types), scGraph (do types lie as they do inside batches?), kSIM (purity "
    "of neighborhoods), kept neighbors (of PCA, inside batches). Controls show what a score is worth: one knows "
    "nothing, one has its cells shuffled, one knows only the labels. Totals of other versions or tools do not compare."
)
#: Single metrics that are also shown on the controls' scale.
SCALED = ("nmi", "silhouette_label", "clisi", "ilisi", "kbet", "cilisi", "scgraph")
FEW = ["total", "bio", "batch", "ilisi"]


def write(result: Result, folder: str | Path) -> list[Path]:
    """Write PNG pictures with their numbers as CSV, ``report.html``, ``scores.csv`` and ``scores.json``.

    Args:
        result: of :func:`scfm.evaluation.evaluate.evaluate`.
        folder: where they go; made where it is not there.

    Returns:
        Paths of the files.
    """
    folder = Path(folder)
    figures = _figures(result)
    paths = {name: folder / f"{name}.png" for name in figures}
    drawn = {name: picture(figure, caption, paths[name]) for name, (figure, caption) in figures.items()}
    page = write_page(folder / "report.html", f"Evaluation of {result.embedding}", _sections(result, drawn))
    shown = [file for path in paths.values() for file in (path, path.with_suffix(".csv"))]
    return [*shown, page, *_write_scores(result, folder)]


def _figures(result: Result) -> Figures:
    seed, n_jobs = int(result.settings["seed"]), int(result.settings["n_jobs"])
    coordinates = {name: umap(values, seed=seed, n_jobs=n_jobs) for name, values in result.embeddings.items()}
    maps = plot.maps(coordinates, _colorings(result))
    figures: Figures = {"umap": (maps, "The same cells by each embedding (UMAP, 15 neighbors).")}
    scores = result.scores["integration"]
    few = [name for name in FEW if name in scores]
    if few:
        bars = plot.score_bars(scores[few], highlight=result.embedding)
        figures["integration"] = (bars, "Embeddings by their scores; 1 is best.")
    if result.annotation is not None:
        figures |= annotation_figures(result.cells, result.annotation)
    if result.trajectory is not None:
        figures |= trajectory_figures(result.cells.expression, result.trajectory)
    return figures


def _sections(result: Result, drawn: Mapping[str, str]) -> list[Section]:
    scores, ours = result.scores, names(result.methods, "ours")
    real = names(result.methods, "ours", "rival", "ablation")
    tables = _scores_tables(scores["integration"], ours, real)
    return [
        Section("", [paragraph(sentence) for sentence in result.summary], "summary"),
        Section("", [warning(note) for note in result.notes]),
        Section("Naming cells", annotation_parts(result.annotation, drawn)),
        Section("Ordering cells", trajectory_parts(result.trajectory, drawn)),
        Section("Embeddings", [*tables, drawn.get("integration", ""), paragraph(EXPLAINED)]),
        Section("Between the controls", _scaled_parts(scores.get("scaled"), ours)),
        Section("Too little or too much correction", _correction_parts(scores.get("correction"), ours)),
        Section("Maps", [drawn["umap"]]),
        Section("Settings", [settings(result.settings)]),
        Section("Versions", [settings(versions())]),
    ]


def _colorings(result: Result) -> dict[str, np.ndarray]:
    cells = result.cells
    columns = {
        "label": cells.labels,
        "batch": cells.batch,
        "condition": cells.condition,
        "predicted label": cells.called,
    }
    shown = {
        name: np.where(values == "", "(missing)", values) for name, values in columns.items() if values is not None
    }
    if result.trajectory is not None:
        times = result.trajectory.times[result.trajectory.shown]
        shown |= {"pseudotime": times, "known time": result.trajectory.truth}
    return shown


def _write_scores(result: Result, folder: Path) -> list[Path]:
    """``scores.json``, and ``scores.csv`` with a line for each (table, method, metric)."""
    parts = [
        table.rename_axis("method").reset_index().melt("method", var_name="metric").assign(table=name)
        for name, table in result.scores.items()
    ]
    frame = pd.concat(parts)[["table", "method", "metric", "value"]]
    texts = {"scores.csv": frame.to_csv(index=False), "scores.json": json.dumps(result.to_dict(), indent=1)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _scores_tables(scores: pd.DataFrame, ours: list[str], real: list[str]) -> list[str]:
    """Means and types in one table, batches and geometry in another, so that both fit a page."""
    costs = ("seconds", "megabytes")
    first = [name for name in ("total", "bio", "batch", *BIO, "nmi_leiden", *costs) if name in scores]
    rest = [name for name in (*BATCH, "cilisi", "scgraph", "ksim", "kept_neighbors") if name in scores]
    free = [*costs, "kept_neighbors"]
    return [table(scores[part], contenders=real, unranked=free, own=ours) for part in (first, rest) if part]


def _scaled_parts(scaled: pd.DataFrame | None, ours: list[str]) -> list[str]:
    if scaled is None or "total" not in scaled:
        return []
    text = "(x − worst control) / (best control − worst control): 0 is as bad as the worst control, 1 as the best; "
    text += "nothing where the controls differ by less than 0.1."
    columns = [name for name in ("total", "bio", "batch", *SCALED) if name in scaled]
    return [table(scaled[columns], own=ours), paragraph(text)]


def _correction_parts(correction: pd.DataFrame | None, ours: list[str]) -> list[str]:
    if correction is None or correction.empty:
        return []
    text = "; ".join(
        f"{name.replace('_', ' ')}: {meaning}" for name, meaning in CORRECTION_METRICS.items() if name in correction
    )
    return [
        table(correction, unranked=list(correction.columns), own=ours),
        paragraph(f"{text[0].upper()}{text[1:]}."),
    ]
