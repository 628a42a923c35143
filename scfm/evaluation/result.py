"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scfm.evaluation.annotation import Annotation
from scfm.evaluation.cells import Cells
from scfm.evaluation.methods.method import Method
from scfm.evaluation.trajectory import Trajectory
from scfm.metrics.integration import BATCH, BIO, VERSION

TABLES = ("annotation", "integration", "scaled", "correction", "trajectory")


@dataclass(frozen=True, repr=False)
class Result:
    """Scores, sentences and what they were computed from. Nothing is written; see :mod:`scfm.report.evaluation`.

    Attributes:
        embedding: key of the embedding in question.
        summary: a sentence for each comparison.
        notes: what a reader must know about the scores.
        scores: a table methods × metrics by name, of ``annotation, integration, scaled, correction, trajectory``;
            those that the columns given do not allow are absent.
        methods: the embeddings that were scored.
        settings: what was asked for.
        cells: what was evaluated.
        embeddings: (B, D) by name, those to draw.
        annotation: the cell types that each method called; None without labels.
        trajectory: the order that each method found; None without times.
    """

    embedding: str
    summary: list[str]
    notes: list[str]
    scores: Mapping[str, pd.DataFrame]
    methods: tuple[Method, ...]
    settings: Mapping[str, Any]
    cells: Cells
    embeddings: Mapping[str, np.ndarray]
    annotation: Annotation | None = None
    trajectory: Trajectory | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``scores.json`` holds. Tables that are absent are empty."""
        return {
            "summary": list(self.summary),
            "notes": list(self.notes),
            **{name: plain(self.scores[name]) if name in self.scores else {} for name in TABLES},
            "settings": dict(self.settings),
            "metrics": {"version": VERSION, "bio": BIO, "batch": BATCH, "total": "0.4 batch + 0.6 bio"},
        }

    def __repr__(self) -> str:
        lines = [f"Evaluation of {self.embedding} on {len(self.cells):,} cells"]
        lines += [f"  {sentence}" for sentence in self.summary]
        lines += [f"  Note: {note}" for note in self.notes]
        lines += [
            f"  scores[{name!r}]: {len(table)} methods × {table.shape[1]} columns"
            for name, table in self.scores.items()
        ]
        return "\n".join([*lines, "  To write tables, pictures and report.html: scfm.report.evaluation.write"])


def plain(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """A table as what JSON can hold: {row: {column: number, or None}}."""
    return {
        str(name): {column: None if pd.isna(value) else float(value) for column, value in row.items()}
        for name, row in table.iterrows()
    }
