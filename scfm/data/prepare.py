"""From single-cell files to a token store: streamed, resumable, the same bytes however the work is cut."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from scfm.data import arrange
from scfm.data.context import Context, context, release
from scfm.data.encode import encode_part
from scfm.data.fit import fit
from scfm.data.labels import merge_columns
from scfm.data.layout import REPORT, VERSION, PartRecord, StoreMeta, write_layout
from scfm.data.options import Genes, Options, resolve_inputs
from scfm.data.pool import Dask, Local
from scfm.data.quality import Quality
from scfm.data.report import write_report
from scfm.data.steps import Steps
from scfm.data.store import TokenStore
from scfm.data.summary import FileSummary, corpus_summary, table
from scfm.data.survey import check_genes, survey_file
from scfm.data.work import Work
from scfm.genes import read_alias
from scfm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

#: Inputs below this are prepared by one process where ``workers`` is not given: starting others would take longer.
SMALL = 200_000_000


def prepare(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    tokenizer: Tokenizer,
    *,
    obs: Sequence[str] = (),
    group: str | None = None,
    missing: Literal["refuse", "allow"] = "refuse",
    layer: str | None = None,
    gene_column: str | None = None,
    counts: Literal["required", "lognorm_ok"] = "required",
    mod: str = "rna",
    on_duplicate_cells: Literal["refuse", "number", "ignore"] = "refuse",
    n_counts: str | None = None,
    empty: Literal["refuse", "drop"] = "refuse",
    quality: Quality | None = None,
    genes: Genes | None = None,
    duplicates: Literal["keep", "report", "drop"] = "keep",
    keep_counts: bool = False,
    shuffle: bool = False,
    seed: int = 0,
    workers: int | None = None,
    block_size: int = 1024,
    cells_per_part: int | None = None,
    executor: Local | Dask | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    overwrite: bool = False,
    limit: int | None = None,
) -> TokenStore:
    """Tokenise files into a store.

    A run that was killed is started again with the same arguments and finishes what is missing. The bytes of the
    store depend on the cells, the tokenizer and the options, not on workers, block size, compression or kills.

    Args:
        inputs: files, or patterns; see :func:`scfm.data.read.open_cells` for the formats.
        output: the store; its unfinished parts lie in ``.NAME.partial`` beside it.
        tokenizer: one that is not fitted gets its vocabulary and medians from these files, in a pass before.
        obs: obs columns to carry.
        group: the obs column whose cells stay together in a split (a donor).
        missing: a file without one of the columns is refused, or its cells get -1 or NaN (``allow``).
        layer: the layer of the counts; this and the next four: see :func:`scfm.data.read.open_cells`.
        gene_column: var column of the gene names.
        counts: whether log-normalised values will do.
        mod: modality of a file with several.
        on_duplicate_cells: cells of one name in a file.
        n_counts: obs column with each cell's total of counts; None adds up all its genes.
        empty: a cell without counts ends the run (``refuse``) or is dropped and counted.
        quality: rules that cells must pass, see :class:`scfm.data.quality.Quality`.
        genes: how genes are matched, see :class:`scfm.data.options.Genes`.
        duplicates: cells with equal counts are kept unseen, reported, or all but the first dropped.
        keep_counts: keep a column ``counts`` beside the tokens: counts per 10,000, 0 at special tokens.
        shuffle: write the cells in an order shuffled over the whole corpus, drawn from ``seed``.
        seed: of the shuffling.
        workers: processes; None takes one for small inputs and else one per core.
        block_size: cells held at a time by each.
        cells_per_part: cells of a part, the unit that is done again after a kill; None makes at most 512 parts.
        executor: where parts run; None is :class:`scfm.data.pool.Local`.
        on_error: a bad file ends the run (``stop``) or is left out and listed (``skip``).
        overwrite: replace an existing output, and start over where an unfinished one has other inputs or options.
        limit: only the first cells of each file (a rehearsal).

    Returns:
        The store, opened. Its ``files`` say what became of each input; left-out ones have the key ``skipped``.

    Raises:
        FileNotFoundError, FileExistsError, ValueError, RuntimeError, OSError: in one sentence, what is wrong with
            inputs, options or disk. Nothing half-written is left at ``output``.
    """
    found, output = resolve_inputs(inputs), Path(output)
    matching = genes or Genes()
    if counts == "lognorm_ok" and tokenizer.needs_counts:
        raise ValueError(f"the tokenizer {tokenizer.name} needs counts: counts=lognorm_ok is for pure rank tokenizers")
    options = Options(
        obs=tuple(dict.fromkeys([*obs, *([group] if group else [])])),
        group=group,
        missing=missing,
        layer=layer,
        gene_column=gene_column,
        counts=counts,
        mod=mod,
        on_duplicate_cells=on_duplicate_cells,
        n_counts=n_counts,
        empty=empty,
        quality=quality or Quality(),
        max_dropped=matching.max_dropped,
        policy=matching.policy,
        species=matching.species,
        alias=read_alias(matching.alias) if matching.alias else {},
        duplicates=duplicates,
        keep_counts=keep_counts,
        cells_per_part=cells_per_part,
        shuffle=shuffle,
        seed=seed,
        limit=limit,
    )
    if on_error not in ("stop", "skip") or block_size < 1 or (workers is not None and workers < 1):
        raise ValueError(
            f"on_error={on_error!r}, block_size={block_size}, workers={workers}: expected stop or skip, and at least 1"
        )
    if workers is None:
        workers = 1 if sum(entry["size"] for entry in found) < SMALL else len(os.sched_getaffinity(0))
    work, state = Work(output), tokenizer.to_dict()
    work.output.parent.mkdir(parents=True, exist_ok=True)
    plan = {"version": VERSION, "inputs": found, "tokenizer": _digest(state), "options": asdict(options)}
    try:
        with work.locked():
            if work.published() and not work.changed(plan):
                work.tidy()
                return TokenStore.open(output)
            if output.exists() and not overwrite:
                raise FileExistsError(f"{output} exists; choose another output, or replace it with overwrite=true")
            mark = work.begin(plan, overwrite)
            with (executor or Local()).open(workers) as engine:
                steps = Steps(work, mark, found, engine, workers, on_error)
                _run(steps, tokenizer, state, options, block_size)
            work.publish()
    except BaseException:
        work.abandon()
        raise
    finally:
        release()
        arrange.release_inputs()
    return TokenStore.open(output)


def _digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a tokenizer is."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _run(steps: Steps, tokenizer: Tokenizer, state: dict[str, Any], options: Options, block_size: int) -> None:
    """All steps, each doing what is not recorded; at the end the store is whole in the working folder."""
    work = steps.work
    surveys = steps.each_file("survey", survey_file)
    _require_files(steps)
    cells = [
        min(surveys[n]["cells"], options.limit or surveys[n]["cells"]) if n in surveys else 0
        for n in range(len(steps.inputs))
    ]
    columns = merge_columns((steps.inputs[n]["path"], surveys[n]["columns"]) for n in steps.files)
    ordered = {name: columns.get(name) for name in options.obs}
    work.save("corpus", {"columns": ordered, "cells": cells, "cells_per_part": options.part_size(sum(cells))})
    run = context(str(work.folder), steps.mark)
    if not work.has("tokenizer"):
        if not tokenizer.fitted:
            state = fit(tokenizer, steps, part_keys(run, steps.files), block_size).to_dict()
        work.save("tokenizer", state)
    steps.each_file("genes", check_genes)
    _require_files(steps)
    keys, sizes = part_keys(run, steps.files)
    parts = steps.run(
        "parts", encode_part, keys, block_size, cells=sizes, valid=lambda record: _lies_there(run, record)
    )
    _require_files(steps)
    if not any(record["part"]["cells"] for record in parts.values()):
        raise ValueError(f"no cell is left of {sum(cells)}: {table_of_reasons(parts)}")
    _finish(steps, run, surveys, parts)


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the manifest tells them; an alias map by its size."""
    return {"options": {**options, "alias": len(options["alias"])}}


def part_keys(run: Context, files: Sequence[int]) -> tuple[list[str], list[int]]:
    """``FILE-PART`` of every part of some files, and their cells."""
    size = run.corpus["cells_per_part"]
    pairs = [(file, part) for file in files for part in range(-(-run.cells(file) // size))]
    ranges = [run.range(*pair) for pair in pairs]
    return [f"{file:05d}-{part:05d}" for file, part in pairs], [stop - start for start, stop in ranges]


def table_of_reasons(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """``120 min_genes, 3 no counts``: why cells were dropped."""
    reasons: dict[str, int] = {}
    for record in parts.values():
        for reason, n in record["dropped"].items():
            reasons[reason] = reasons.get(reason, 0) + n
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


def _lies_there(run: Context, record: Mapping[str, Any]) -> bool:
    """Whether the part that a record tells of is on the disk, whole by its size."""
    path = run.parts / record["part"]["name"]
    return path.is_file() and path.stat().st_size == record["part"]["bytes"]


def _require_files(steps: Steps) -> None:
    if not steps.files:
        reasons = "; ".join(steps.skipped.values())
        raise ValueError(f"every input was skipped, no store is written: {reasons}")


def _finish(steps: Steps, run: Context, surveys: Mapping[int, Any], parts: dict[str, dict[str, Any]]) -> None:
    """Look for repeated cells, arrange the parts where asked, and write what stands beside them."""
    repeated = arrange.find_repeated(run, list(parts)) if run.options["duplicates"] != "keep" else None
    records = list(parts.values())
    if run.arranged:
        records = arrange.arranged(steps, run, list(parts))
    summaries = {}
    for file in steps.files:
        own = {key: record for key, record in parts.items() if key.startswith(f"{file:05d}-")}
        seen = None if repeated is None else sum(repeated[key] for key in own)
        summaries[file] = FileSummary(run, file, surveys[file], own, seen)
    corpus = corpus_summary(list(summaries.values()))
    files = [
        {"name": entry["name"]} | (summaries[n].to_dict() if n in summaries else {"skipped": steps.skipped[n]})
        for n, entry in enumerate(steps.inputs)
    ]
    meta = StoreMeta(
        tokenizer=run.state,
        columns=run.corpus["columns"],
        group=run.options["group"],
        files=files,
        counts=run.options["keep_counts"],
        shuffled=run.options["seed"] if run.options["shuffle"] else None,
        report=corpus,
    )
    write_layout(run.work.store, meta, [PartRecord(**record["part"]) for record in records], _told(run.options))
    write_report(TokenStore.open(run.work.store), run.work.store / REPORT)
    log.info("\n%s", table(files, corpus))
