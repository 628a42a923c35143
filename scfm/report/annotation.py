"""The annotation's part of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from scfm import plot
from scfm.evaluation.annotation import Annotation
from scfm.evaluation.cells import Cells
from scfm.metrics.annotation import Calls, rejection_curve
from scfm.metrics.classification import reliability
from scfm.page import paragraph, side_by_side, table

#: Names of columns that let the table fit a page.
SHORT = {
    "low": "95 % from",
    "high": "to",
    "balanced_accuracy": "balanced",
    "n_cells": "cells",
    "ece": "ECE",
    "seconds": "s",
    "megabytes": "MB",
}


Figures = dict[str, tuple[Figure, str]]


def annotation_figures(cells: Cells, annotation: Annotation) -> Figures:
    """The pictures of an annotation, each with its caption."""
    scores = annotation.scores
    best = scores.loc[annotation.names("ours"), "macro_f1"].idxmax()
    limits = {name: (row["low"], row["high"]) for name, row in scores.iterrows()}
    bars = plot.score_bars(scores[["macro_f1", "accuracy", "balanced_accuracy"]], highlight=best, errors=limits)
    figures = {"annotation": (bars, "Methods on the same test cells; the line is the 95 % interval over resamples.")}
    compared = [best, *(name for name in annotation.names("ours", "rival", "ablation") if name != best)]
    calls = {name: annotation.calls[name] for name in compared}
    figures |= call_figures(cells.codes, calls, cells.classes, title=f"{best}, test cells")
    if len(annotation.shots):
        figures["few_shot"] = (
            plot.shot_curves(annotation.shots),
            "Macro-F1 with part of the labels: five draws, each from the next fold; the band is their range.",
        )
    return figures


def call_figures(codes: np.ndarray, calls: Mapping[str, Calls], classes: Sequence[str], *, title: str) -> Figures:
    """Confusion, reliability and rejection of called cell types, each picture with its caption.

    Args:
        codes: (B,) true class codes.
        calls: by method; the first one's confusion and reliability are drawn, and the rejection curves of all.
        classes: names of the classes.
        title: above the pictures of the first one.
    """
    first = next(iter(calls.values()))
    names, true = np.array([*classes, "unknown"], dtype=object), codes[first.rows]
    right, named = first.codes == true, first.codes >= 0
    curves = {name: rejection_curve(own.confidence, own.codes == codes[own.rows]) for name, own in calls.items()}
    return {
        "confusion": (
            plot.confusion_matrix(names[true], names[first.codes], title=title),
            "What the cells of each true class were called; a row is a true class and sums to 100 %.",
        ),
        "reliability": (
            plot.reliability_diagram(reliability(first.confidence[named], right[named]), title=title),
            "Accuracy at each confidence: of the cells with confidence 0.8, 8 of 10 should be right.",
        ),
        "rejection": (plot.rejection_curve(curves), "Accuracy when the least sure cells are left unnamed."),
    }


def annotation_parts(annotation: Annotation | None, drawn: Mapping[str, str]) -> list[str]:
    """The part of a report about an annotation; nothing where there is none."""
    if annotation is None:
        return []
    shown = annotation.scores.rename(columns=SHORT)
    text = (
        f"Split: {annotation.split}. Nothing is fitted on test cells, neither the choice of genes nor a scale. "
        "Macro-F1 is the mean over classes, so that rare types count as much as common ones; ECE is the calibration "
        "error; coverage the share of cells that were named; balanced the mean recall of the classes; MB the rise of "
        "memory."
    )
    scores = table(
        shown,
        smaller_is_better=["ECE"],
        unranked=["95 % from", "to", "cells", "coverage", "s", "MB"],
        own=annotation.names("ours"),
    )
    return [
        scores,
        paragraph(text),
        drawn["annotation"],
        drawn["confusion"],
        side_by_side(drawn["reliability"], drawn["rejection"]),
        *([drawn["few_shot"]] if "few_shot" in drawn else []),
    ]
