"""The annotation's part of a report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from scfm import plot
from scfm.evaluate.annotation import Naming
from scfm.evaluate.cells import Cells
from scfm.metrics.annotation import rejection_curve
from scfm.metrics.classification import reliability
from scfm.report.html import paragraph, side_by_side, table

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


def naming_figures(cells: Cells, naming: Naming) -> dict[str, tuple[Figure, str]]:
    """The pictures of an annotation, each with its caption."""
    best = naming.scores.loc[naming.ours, "macro_f1"].idxmax()
    calls = naming.calls[best]
    names = np.array([*cells.classes, "unknown"], dtype=object)
    right = {name: own.codes == cells.codes[own.rows] for name, own in naming.calls.items()}
    limits = {name: (row["low"], row["high"]) for name, row in naming.scores.iterrows()}
    named = calls.codes >= 0
    figures = {
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
    if len(naming.shots):
        figures["few_shot"] = (
            plot.shot_curves(naming.shots),
            "Macro-F1 with part of the labels: five draws, each from the next fold; the band is their range.",
        )
    return figures


def naming_parts(naming: Naming | None, drawn: Mapping[str, str]) -> list[str]:
    """The part of a report about an annotation; nothing where there is none."""
    if naming is None:
        return []
    shown = naming.scores.rename(columns=SHORT)
    text = (
        f"Split: {naming.split}. Nothing is fitted on test cells, neither the choice of genes nor a scale. Macro-F1 is "
        "the mean over classes, so that rare types count as much as common ones; ECE is the calibration error; "
        "coverage the share that was named at all; balanced the mean recall of the classes; MB how far memory rose."
    )
    scores = table(
        shown,
        smaller_is_better=["ECE"],
        unranked=["95 % from", "to", "cells", "coverage", "s", "MB"],
        own=naming.ours,
    )
    return [
        scores,
        paragraph(text),
        drawn["annotation"],
        drawn["confusion"],
        side_by_side(drawn["reliability"], drawn["rejection"]),
        *([drawn["few_shot"]] if "few_shot" in drawn else []),
    ]
