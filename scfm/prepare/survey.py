"""A first look at every file, before anything is written: its cells, its labels, its genes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from scfm.cells.file import CellFile
from scfm.cells.names import WINDOW
from scfm.prepare.worker import Context, context
from scfm.store.layout import write_arrays, write_json
from scfm.store.obs_columns import require_columns, survey_columns

#: The gene check looks at so many cells in so many places of a file.
SAMPLE_CELLS, SAMPLE_PLACES = 128, 4


def survey_file(folder: str, mark: str, key: str) -> dict[str, Any]:
    """Open a file, check its options and collect its categories.

    Returns:
        The record: ``cells``, ``genes``, ``counts_from``, ``genes_from``, ``columns`` {name: categories or None}.

    Raises:
        ValueError: whatever is wrong with the file, in one sentence.
    """
    run = context(folder, mark)
    cells, where = run.open(int(key)), run.where(int(key))
    options = run.options
    have = require_columns(options["obs"], cells.obs_columns, where, options["missing"])
    run.quality.columns(cells.obs_columns, where)
    if options["n_counts"] is not None and options["n_counts"] not in cells.obs_columns:
        raise ValueError(
            f"{where}: n_counts={options['n_counts']!r} is no column of obs; it has "
            f"{', '.join(cells.obs_columns) or 'none'}. Without it a cell's counts are added up"
        )
    record = {
        "cells": cells.n_cells,
        "genes": len(cells.genes),
        "counts_from": cells.counts_from,
        "genes_from": cells.genes_from,
        "columns": survey_columns(
            partial(_windows, cells, have), have, {options["group"], *options["categories"]}, where
        ),
    }
    write_json(run.work.record("survey", key), record)
    return record


def _windows(cells: CellFile, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Some obs columns, a window of cells at a time."""
    for start in range(0, cells.n_cells, WINDOW):
        yield cells.obs_rows(start, min(start + WINDOW, cells.n_cells), names)


def check_genes(folder: str, mark: str, key: str) -> dict[str, Any]:
    """Find the token of every gene of a file, and refuse the file if too many counts of a sample have none.

    Returns:
        The record: the sample's gene report.

    Raises:
        ValueError: too much would be dropped, or the gene policy refuses the file.
    """
    run, file = context(folder, mark), int(key)
    cells = run.open(file)
    try:
        found, weights = run.harmonised(tuple(cells.genes))
    except ValueError as error:
        raise ValueError(f"{run.where(file)}: {error}") from error
    report = found.report(_sample_sums(run, cells))
    report.require(run.options["max_dropped"], run.where(file))
    path = run.work.folder / "genes" / f"{file:05d}.npz"
    path.parent.mkdir(exist_ok=True)
    write_arrays(
        path,
        names=np.array(found.names, dtype=np.str_),
        columns=found.columns,
        excluded=found.excluded,
        weights=weights,
        mito=run.mitochondrial(cells),
        n_merged=found.n_merged,
    )
    record = {"sample": report.to_dict()}
    write_json(run.work.record("genes", key), record)
    return record


def _sample_sums(run: Context, cells: CellFile) -> np.ndarray:
    """(G,) float64: the counts of each gene over a sample of the cells."""
    starts = np.unique(np.linspace(0, max(0, cells.n_cells - SAMPLE_CELLS), SAMPLE_PLACES).astype(int))
    total = np.zeros(len(cells.genes))
    for start in starts.tolist():
        for block in cells.blocks(start, start + SAMPLE_CELLS, SAMPLE_CELLS, []):
            total += np.asarray(block.counts.sum(axis=0, dtype=np.float64)).ravel()
    return total
