"""The result of an analysis, and the folder that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from scfm import plot
from scfm.io import atomic_write, write_text
from scfm.page import Section, image, paragraph, settings, table, versions, warning, write_page

#: Rows of a table that the page shows; the file has all.
SHOWN = 40


@dataclass(frozen=True)
class Result:
    """What an analysis found.

    Attributes:
        title: of the page.
        summary: sentences that the page begins with; where a simple method does better, the first says so.
        notes: warnings: what the numbers do not show.
        tables: by name; ``genes`` becomes ``genes.csv``.
        large: names of tables that are written as parquet.
        shown: columns that the page shows of a table; tables that are not named here are not on the page.
        figures: by name, each with its caption.
        coverage: plain values on what was read and what was left out.
        manifest: plain values on where the result comes from; :meth:`~scfm.analysis.base.Analysis.analyse` fills them.
    """

    title: str
    summary: Sequence[str]
    tables: Mapping[str, pd.DataFrame]
    notes: Sequence[str] = ()
    large: frozenset[str] = frozenset()
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> Path:
        """Write tables, pictures, ``report.html`` and ``manifest.json``; the folder is there whole or not at all.

        Args:
            folder: where they go; what has that name is replaced.

        Returns:
            The folder.
        """
        folder = Path(folder)
        with atomic_write(folder) as part:
            part.mkdir()
            files = [self._write_table(part, name) for name in self.tables]
            drawn = {name: plot.render(figure) for name, (figure, _) in self.figures.items()}
            for name, png in drawn.items():
                plot.write(png, part / f"{name}.png")
                plot.save_numbers(self.figures[name][0], part / f"{name}_numbers.csv")
            write_page(part / "report.html", self.title, self._sections(drawn))
            about = {**self.manifest, "coverage": dict(self.coverage), "files": files, "versions": versions()}
            write_text(part / "manifest.json", json.dumps(about, indent=1, default=str))
        return folder

    def _write_table(self, folder: Path, name: str) -> str:
        frame = self.tables[name]
        if name in self.large:
            frame.to_parquet(folder / f"{name}.parquet", index=False)
            return f"{name}.parquet"
        frame.to_csv(folder / f"{name}.csv", index=False)
        return f"{name}.csv"

    def _sections(self, drawn: Mapping[str, bytes]) -> list[Section]:
        pictures = [
            image(drawn[name], caption, round(figure.get_size_inches()[0] * 96))
            for name, (figure, caption) in self.figures.items()
        ]
        return [
            Section("", [paragraph(sentence) for sentence in self.summary], "summary"),
            Section("", [warning(note) for note in self.notes]),
            Section("Figures", pictures),
            *[Section(f"Table: {name}", self._table_parts(name, columns)) for name, columns in self.shown.items()],
            Section("Coverage", [settings(self.coverage)]),
            Section("Settings", [settings({**self.manifest, "versions": versions()})]),
        ]

    def _table_parts(self, name: str, columns: Sequence[str]) -> list[str]:
        frame = self.tables[name]
        few = frame[[column for column in columns if column in frame]].head(SHOWN)
        if few.empty:
            return []
        few = few.set_index(few.columns[0])
        text = f"{len(few):,} of {len(frame):,} rows."
        return [paragraph(text), table(few, unranked=list(few.columns))]
