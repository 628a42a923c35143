"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from scfm.evaluate.annotation import Naming
from scfm.evaluate.scores import plain
from scfm.evaluate.trajectory import Ordering

Table = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Result:
    """Tables, and what they were made of.

    Attributes:
        naming: the annotation; None without labels.
        ordering: the trajectory; None without times.
        scores: embeddings × metrics, with seconds and megabytes.
        scaled: the same between the worst and the best control; None without controls.
        correction: over- and under-correction; None without types or batches.
    """

    naming: Naming | None
    ordering: Ordering | None
    scores: pd.DataFrame
    scaled: pd.DataFrame | None
    correction: pd.DataFrame | None

    def tables(self) -> dict[str, Table]:
        """All of them as plain values, by name; empty where there is none."""
        found = {
            "annotation": None if self.naming is None else self.naming.scores,
            "integration": self.scores,
            "scaled": self.scaled,
            "correction": self.correction,
            "trajectory": None if self.ordering is None else self.ordering.scores,
        }
        return {name: {} if table is None else plain(table) for name, table in found.items()}
