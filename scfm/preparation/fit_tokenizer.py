"""Fitting of the tokenizer: one pass over all cells for the vocabulary and medians."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scfm.genes import resolve
from scfm.preparation.encode import select_cells
from scfm.preparation.steps import Steps
from scfm.preparation.worker import FileGenes, worker_state
from scfm.store.layout import write_json
from scfm.tokenizer import GeneStatistics, Tokenizer
from scfm.tokenizer.statistics import EXACT_LIMIT
from scfm.tokenizer.tally import tally


def save_tokenizer(tokenizer: Tokenizer, steps: Steps, parts: Mapping[str, int], block_size: int) -> None:
    """Save the tokenizer for the workers, fitted on the corpus if it is not fitted.

    Args:
        tokenizer: fitted or not.
        steps: of the run.
        parts: cells of all parts by key.
        block_size: cells held at a time.

    Raises:
        ValueError: no file has a gene that is known.
    """
    if steps.work.has_state("tokenizer"):
        return
    if not tokenizer.fitted:
        total = _add_up(steps, count_genes(steps, parts, block_size))
        if not total.exact and total.n_values <= EXACT_LIMIT:  # only with the files that were left out were there more
            _forget_counts(steps, parts)
            total = _add_up(steps, count_genes(steps, parts, block_size, exact=True))
        tokenizer = tokenizer.fit(total)
    steps.work.save_state("tokenizer", tokenizer.to_dict())


def count_genes(
    steps: Steps, parts: Mapping[str, int], block_size: int, *, exact: bool = False
) -> dict[str, dict[str, Any]]:
    """Gather the statistics of some parts; the records. Arguments as for :func:`save_tokenizer`, :func:`count_part`."""
    return steps.run_tasks("statistics", count_part, list(parts), block_size, exact, cells=list(parts.values()))


def _add_up(steps: Steps, parts: Iterable[str]) -> GeneStatistics:
    """The statistics of all parts together."""
    total = GeneStatistics(EXACT_LIMIT)
    for key in parts:
        total.merge(GeneStatistics.load(steps.work.folder / "statistics" / f"{key}.npz"))
    return total


def _forget_counts(steps: Steps, parts: Iterable[str]) -> None:
    for key in parts:
        steps.work.record_path("statistics", key).unlink(missing_ok=True)


def count_part(folder: str, plan_hash: str, key: str, block_size: int, exact: bool = False) -> dict[str, Any]:
    """Compute the gene statistics of the kept cells of one part.

    Args:
        folder: the working folder.
        plan_hash: of the plan in it.
        key: ``FILE-PART``.
        block_size: cells held at a time.
        exact: keep every value, even where this process has counted more than medians are exact for; otherwise the
            bins of the sketch are enough then, and smaller.

    Returns:
        The record: ``cells``.
    """
    run = worker_state(folder, plan_hash)
    file, part = map(int, key.split("-"))
    cells = run.open_file(file)
    genes = resolve(cells.genes, alias=run.options["alias"], species=run.options["species"])
    no_tokens = FileGenes(
        names=np.empty(0, dtype=np.str_),
        columns=np.full(len(genes), -1, np.int32),
        excluded=np.zeros(len(genes), dtype=bool),
        weights=np.zeros(len(genes), np.uint64),
        mito=run.mito_genes(cells),
        n_merged=0,
    )
    statistics = GeneStatistics(EXACT_LIMIT if exact or run.n_counted <= EXACT_LIMIT else 0)
    for block in cells.blocks(*run.part_range(file, part), block_size, run.obs_columns(cells)):
        sums = tally(block.counts, no_tokens.weights)
        kept = select_cells(run, block, sums, no_tokens, file, Counter())
        column = run.options["n_counts"]
        totals = sums.totals if column is None else block.obs[column].to_numpy(dtype=np.float64)
        statistics.update(block.counts[kept], genes, totals[kept])
    path = run.work.folder / "statistics" / f"{key}.npz"
    path.parent.mkdir(exist_ok=True)
    statistics.save(path)
    run.n_counted += statistics.n_values
    record: dict[str, Any] = {"cells": run.part_range(file, part)[1] - run.part_range(file, part)[0]}
    write_json(run.work.record_path("statistics", key), record)
    return record
