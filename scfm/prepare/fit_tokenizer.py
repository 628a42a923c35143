"""The vocabulary and medians of a corpus: one pass over all cells before they are encoded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from scfm.genes import resolve
from scfm.prepare.encode import keep
from scfm.prepare.steps import Steps
from scfm.prepare.worker import FileGenes, context
from scfm.store.layout import write_json
from scfm.tokenizer import GeneStatistics, Tokenizer
from scfm.tokenizer.tally import tally


def fit(tokenizer: Tokenizer, steps: Steps, parts: tuple[list[str], list[int]], block_size: int) -> Tokenizer:
    """The tokenizer, fitted on the corpus.

    Args:
        tokenizer: one that is not fitted.
        steps: of the run.
        parts: keys and cells of all parts.
        block_size: cells held at a time.

    Raises:
        ValueError: no file has a gene that is known.
    """
    total = GeneStatistics()
    for key in count(steps, parts, block_size):
        total.merge(GeneStatistics.load(steps.work.folder / "statistics" / f"{key}.npz"))
    return tokenizer.fit(total)


def count(steps: Steps, parts: tuple[list[str], list[int]], block_size: int) -> dict[str, dict[str, Any]]:
    """Gather the statistics of some parts where they are not there; the records, see :func:`fit` for the arguments."""
    keys, cells = parts
    return steps.run("statistics", count_part, keys, block_size, cells=cells)


def count_part(folder: str, mark: str, key: str, block_size: int) -> dict[str, Any]:
    """Gather the statistics of one part: the kept cells' genes."""
    run = context(folder, mark)
    file, part = map(int, key.split("-"))
    cells = run.open(file)
    genes = resolve(cells.genes, alias=run.options["alias"], species=run.options["species"])
    nowhere = FileGenes(
        names=np.array(cells.genes),
        columns=np.full(len(genes), -1, np.int32),
        excluded=np.zeros(len(genes), dtype=bool),
        weights=np.zeros(len(genes), np.uint64),
        mito=run.mitochondrial(cells),
        n_merged=0,
    )
    statistics = GeneStatistics()
    for block in cells.blocks(*run.range(file, part), block_size, run.obs_columns(cells)):
        sums = tally(block.counts, nowhere.weights)
        kept = keep(run, block, sums, nowhere, file, Counter())
        column = run.options["n_counts"]
        totals = sums.totals if column is None else block.obs[column].to_numpy(dtype=np.float64)
        statistics.update(block.counts[kept], genes, totals[kept])
    path = run.work.folder / "statistics" / f"{key}.npz"
    path.parent.mkdir(exist_ok=True)
    statistics.save(path)
    record: dict[str, Any] = {"cells": run.range(file, part)[1] - run.range(file, part)[0]}
    write_json(run.work.record("statistics", key), record)
    return record
