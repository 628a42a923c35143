"""The survey of every file before anything is written: its cells, labels and genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from scfm.cells.file import CellFile
from scfm.cells.names import WINDOW
from scfm.preparation.options import Options, Share
from scfm.preparation.side import join_fields, survey_fields
from scfm.preparation.steps import Steps
from scfm.preparation.worker import WorkerState, worker_state
from scfm.store.layout import write_arrays, write_json
from scfm.store.obs_columns import merge_columns, require_columns, survey_columns, warn_of_like_names
from scfm.store.token_store import TokenStore

#: The gene check reads so many cells at so many places of a file.
SAMPLE_CELLS, SAMPLE_PLACES = 128, 4


def survey_files(steps: Steps) -> dict[int, dict[str, Any]]:
    """The record of each file, see :func:`survey_file`.

    Raises:
        ValueError: a bad file, or no file is left.
    """
    return steps.run_files("survey", survey_file)


def fix_corpus(
    steps: Steps,
    surveys: Mapping[int, Mapping[str, Any]],
    options: Options,
    after: TokenStore | None,
    share: Share | None = None,
) -> WorkerState:
    """Save the corpus-wide tables; if an earlier start had others, its results are removed.

    Args:
        steps: of the run.
        surveys: record of each file.
        options: of the run.
        after: the store to which the files are added.
        share: of a run that is divided.

    Returns:
        The run as workers know it.

    Raises:
        ValueError: a share finds other tables than the first one.
    """
    before = {} if after is None else {name: after.categories(name) for name in after.columns}
    columns = merge_columns(((steps.inputs[n]["path"], surveys[n]["columns"]) for n in steps.files), before)
    warn_of_like_names(columns)
    cells = {str(n): min(surveys[n]["cells"], options.limit or surveys[n]["cells"]) for n in steps.files}
    corpus = {
        "columns": {name: columns.get(name) for name in options.obs},
        "cells": cells,
        "cells_per_part": options.part_size(sum(cells.values())),
    }
    stored = {} if after is None else after.fields
    if options.side is not None or stored:
        found = ((steps.inputs[n]["path"], surveys[n].get("fields", {})) for n in steps.files)
        corpus["fields"] = join_fields(found, stored)
    if steps.work.has_state("corpus") and steps.work.load_state("corpus") != corpus:
        if share is not None:
            raise ValueError(f"share={share} finds other cells or labels than the share that was started first")
        steps.work.reset_after_survey()
    steps.work.save_state("corpus", corpus)
    return worker_state(str(steps.work.folder), steps.plan_hash)


def survey_file(folder: str, plan_hash: str, key: str) -> dict[str, Any]:
    """Open a file, check its options and collect its categories.

    Returns:
        The record: ``cells``, ``genes``, ``counts_from``, ``genes_from``, ``columns`` {name: categories or None},
        ``fields`` (:func:`scfm.preparation.side.survey_fields`).

    Raises:
        ValueError: what is wrong with the file.
    """
    run = worker_state(folder, plan_hash)
    cells, where = run.open_file(int(key)), run.file_path(int(key))
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
        "fields": survey_fields(cells, options, min(cells.n_cells, options["limit"] or cells.n_cells)),
    }
    write_json(run.work.record_path("survey", key), record)
    return record


def _windows(cells: CellFile, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Some obs columns, a window of cells at a time."""
    for start in range(0, cells.n_cells, WINDOW):
        yield cells.obs_rows(start, min(start + WINDOW, cells.n_cells), names)


def check_genes(folder: str, plan_hash: str, key: str) -> dict[str, Any]:
    """Find the token of every gene of a file; refuse the file if too many counts of a sample have none.

    Returns:
        The record: the sample's gene report.

    Raises:
        ValueError: too much would be dropped, or the gene policy refuses the file.
    """
    run, file = worker_state(folder, plan_hash), int(key)
    cells = run.open_file(file)
    try:
        found, weights = run.map_genes(tuple(cells.genes))
    except ValueError as error:
        raise ValueError(f"{run.file_path(file)}: {error}") from error
    report = found.report(_sample_sums(run, cells))
    report.require(run.options["max_dropped"], run.file_path(file), cells.var_columns, cells.first_names())
    path = run.work.folder / "genes" / f"{file:05d}.npz"
    path.parent.mkdir(exist_ok=True)
    write_arrays(
        path,
        names=np.array(found.names, dtype=np.str_),
        columns=found.columns,
        excluded=found.excluded,
        weights=weights,
        mito=run.mito_genes(cells),
        n_merged=found.n_merged,
        rescued=np.zeros(len(found.names), dtype=bool) if found.rescued is None else found.rescued,
    )
    record = {"sample": report.to_dict()}
    write_json(run.work.record_path("genes", key), record)
    return record


def _sample_sums(run: WorkerState, cells: CellFile) -> np.ndarray:
    """(G,) float64: the counts of each gene over a sample of the cells."""
    starts = np.unique(np.linspace(0, max(0, cells.n_cells - SAMPLE_CELLS), SAMPLE_PLACES).astype(int))
    total = np.zeros(len(cells.genes))
    for start in starts.tolist():
        for block in cells.blocks(start, start + SAMPLE_CELLS, SAMPLE_CELLS, []):
            total += np.asarray(block.counts.sum(axis=0, dtype=np.float64)).ravel()
    return total
