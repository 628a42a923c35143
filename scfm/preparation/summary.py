"""Numbers of cells, genes and counts that were kept and dropped, by file and for the corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scfm.genes import GeneMap, GeneReport
from scfm.preparation.side import describe_fields
from scfm.preparation.worker import WorkerState

#: Letters of a line of the table, and those of a file's name that stay in any case.
WIDTH, MIN_NAME = 80, 12
#: What its heads mean; the lines below it.
LEGEND = (
    "genes: of the file; mapped: with a token; lost: counts of genes without one;",
    "tokens: of a median cell; cut: cells with more genes than the tokenizer takes",
)


class FileSummary:
    """Adds up the parts of one file.

    Args:
        run: the run.
        file: number of the file.
        survey: its record of the survey.
        parts: records of its parts by key.
        repeated: cells that occur before; None if they were not searched for.
    """

    def __init__(
        self,
        run: WorkerState,
        file: int,
        survey: Mapping[str, Any],
        parts: Mapping[str, Mapping[str, Any]],
        repeated: int | None,
    ) -> None:
        genes = run.file_genes(file)
        sums, self.lengths = np.zeros(len(genes.names)), np.zeros(run.tokenizer.max_length + 1, np.int64)
        for key in parts:
            with np.load(run.work.folder / "sums" / f"{key}.npz") as state:
                sums += state["genes"]
                self.lengths += state["lengths"]
        found = GeneMap(genes.columns, tuple(genes.names.tolist()), genes.excluded, genes.n_merged, genes.rescued)
        self.genes: GeneReport = found.report(sums)
        self.genes_per_cell = np.sum([record["genes_per_cell"] for record in parts.values()], axis=0)
        self.dropped: Counter[str] = Counter()
        for record in parts.values():
            self.dropped.update(record["dropped"])
        self.cells = sum(record["cells"] for record in parts.values())
        self.truncated = sum(record["truncated"] for record in parts.values())
        self.repeated = repeated
        if repeated and run.options["duplicates"] == "drop":
            self.dropped["occurred before"] += repeated
        self._survey = survey

    @property
    def kept(self) -> int:
        """Cells in the store."""
        return self.cells - sum(self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``scfm.json``."""
        fields = describe_fields(self._survey)
        return {
            "cells": self.cells,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "repeated": self.repeated,
            "counts_from": self._survey["counts_from"],
            "genes_from": self._survey["genes_from"],
            "genes": self.genes.to_dict(),
            "median_tokens": histogram_median(self.lengths),
            "truncated": self.truncated,
            **({"fields": fields} if fields else {}),
        }


def histogram_median(histogram: np.ndarray) -> int:
    """The lower median of a histogram of integers; 0 if it is empty."""
    below = np.cumsum(histogram)
    return int(np.searchsorted(below, (below[-1] + 1) // 2)) if len(below) and below[-1] else 0


def corpus_summary(files: Sequence[FileSummary]) -> dict[str, Any]:
    """The sums over all files, with the histograms of the report."""
    genes = files[0].genes
    for file in files[1:]:
        genes = genes + file.genes
    dropped = sum((file.dropped for file in files), Counter())
    lengths = np.sum([file.lengths for file in files], axis=0)
    return {
        "cells": sum(file.cells for file in files),
        "kept": sum(file.kept for file in files),
        "dropped": dict(sorted(dropped.items())),
        "genes": genes.to_dict(),
        "median_tokens": histogram_median(lengths),
        "truncated": sum(file.truncated for file in files),
        "genes_per_cell": np.sum([file.genes_per_cell for file in files], axis=0).tolist(),
        "tokens_per_cell": lengths.tolist(),
    }


def merge_summaries(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of the summaries of a store and of the files added to it."""
    genes = _gene_report(before["genes"]) + _gene_report(more["genes"])
    lengths = np.array(before["tokens_per_cell"]) + np.array(more["tokens_per_cell"])
    dropped = Counter(before["dropped"]) + Counter(more["dropped"])
    return {
        "cells": before["cells"] + more["cells"],
        "kept": before["kept"] + more["kept"],
        "dropped": dict(sorted(dropped.items())),
        "genes": genes.to_dict(),
        "median_tokens": histogram_median(lengths),
        "truncated": before["truncated"] + more["truncated"],
        "genes_per_cell": (np.array(before["genes_per_cell"]) + np.array(more["genes_per_cell"])).tolist(),
        "tokens_per_cell": lengths.tolist(),
    }


def _gene_report(state: Mapping[str, Any]) -> GeneReport:
    values = {name: value for name, value in state.items() if name != "share_dropped"}
    for most in ("dropped_most", "rescued_most"):
        values[most] = tuple((str(name), float(n)) for name, n in state.get(most, ()))
    return GeneReport(**values)


def format_table(files: Sequence[Mapping[str, Any]], corpus: Mapping[str, Any]) -> str:
    """The final table in the log, in 80 columns: a line per file and one for the corpus; the report has more."""
    head = ("file", "cells", "kept", "genes", "mapped", "lost", "tokens", "cut")
    rows = [head, *(_row(file["name"], file) for file in files if "cells" in file)]
    if len(rows) > 2:
        rows.append(_without_genes(_row("all", corpus)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    widths[0] = min(widths[0], max(MIN_NAME, WIDTH - sum(widths[1:]) - 2 * len(widths[1:])))
    lines = [
        "  ".join([_shorten(row[0], widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines += LEGEND if len(rows) > 1 else ()
    for file in files:
        if "skipped" in file:
            lines.append(f"{file['name']}  skipped: {file['skipped']}")
    rescued = _gene_report(corpus["genes"])
    if rescued.n_rescued:
        examples = ", ".join(name for name, _ in rescued.rescued_most[:5])
        lines.append(f"{rescued.share_rescued:.2%} of the counts have a token by a retired gene name ({examples})")
    for reason, n in corpus["dropped"].items():
        lines.append(f"dropped {n:,} cells: {reason}")
    return "\n".join(lines)


def _shorten(name: str, width: int) -> str:
    """A name in ``width`` letters: the middle gives way, since files of one study often begin alike."""
    if len(name) > width:
        name = f"{name[: width // 3]}…{name[len(name) - (width - width // 3 - 1) :]}"
    return name.ljust(width)


def _without_genes(row: tuple[str, ...]) -> tuple[str, ...]:
    """The row of all files: a gene is in several of them, so that the sum over files counts no genes."""
    return (*row[:3], "", "", *row[5:])


def _row(name: str, of: Mapping[str, Any]) -> tuple[str, ...]:
    genes, kept = of["genes"], max(of["kept"], 1)
    numbers = (of["cells"], of["kept"], genes["n_genes"], genes["n_mapped"])
    shares = (f"{genes['share_dropped']:.1%}", f"{of['median_tokens']:,}", f"{of['truncated'] / kept:.1%}")
    return (name, *(f"{n:,}" for n in numbers), *shares)
