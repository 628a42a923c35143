"""Carrying out a job: the steps in order, each doing what is not recorded, then the rename."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from scfm.prepare import rearrange as arrange
from scfm.prepare.encode import encode_part
from scfm.prepare.executors import Dask, Local
from scfm.prepare.finish import finish
from scfm.prepare.fit_tokenizer import count, fit
from scfm.prepare.options import Options
from scfm.prepare.share import Share, all_done, own_parts
from scfm.prepare.steps import Steps
from scfm.prepare.survey import check_genes, survey_file
from scfm.prepare.workdir import Work
from scfm.prepare.worker import Context, context, release
from scfm.store.layout import VERSION
from scfm.store.obs_columns import merge_columns
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

#: Inputs below this are prepared by one process where ``workers`` is not given: starting others would take longer.
SMALL = 200_000_000


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        inputs: see :func:`scfm.prepare.options.resolve_inputs`.
        output: the store.
        tokenizer: fitted or not.
        options: everything else that the bytes depend on.
        block_size: cells held at a time.
        on_error: what a bad file does.
        overwrite: replace an existing output, start over where an unfinished one differs.
        after: the store to which the inputs are added; None makes a new one.
        share: which of several jobs this is; None does everything that is not done yet.

    Raises:
        ValueError: a value that is not among those expected.
    """

    inputs: list[dict[str, Any]]
    output: Path
    tokenizer: Tokenizer
    options: Options
    block_size: int = 1024
    on_error: Literal["stop", "skip"] = "stop"
    overwrite: bool = False
    after: TokenStore | None = None
    share: Share | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.on_error == "skip":
            raise ValueError(
                f"share={self.share} with on_error=skip: the other jobs would wait for a file that this one leaves "
                "out; name the inputs without it"
            )
        if self.on_error not in ("stop", "skip") or self.block_size < 1:
            raise ValueError(
                f"on_error={self.on_error!r}, block_size={self.block_size}: expected stop or skip, and at least 1"
            )

    def plan(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What an unfinished run is recognised by, as plain values."""
        return {
            "version": VERSION,
            "inputs": self.inputs,
            "tokenizer": hashlib.sha256(json.dumps(state).encode()).hexdigest(),
            "options": asdict(self.options),
            "after": None if self.after is None else {"files": len(self.after.files), "store": self.after.fingerprint},
        }


def execute(job: Job, workers: int | None = None, executor: Local | Dask | None = None) -> TokenStore | None:
    """Carry out a job, or the rest of it.

    Args:
        job: what is to be done.
        workers: processes; None takes one for small inputs and else one per core.
        executor: where they run.

    Returns:
        The store; None after a share of the work.

    Raises:
        FileExistsError, ValueError, RuntimeError, OSError: see :func:`scfm.prepare.api.prepare`.
    """
    if workers is None:
        workers = 1 if sum(entry["size"] for entry in job.inputs) < SMALL else len(os.sched_getaffinity(0))
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    work, state = Work(job.output), job.tokenizer.to_dict()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    plan = job.plan(state)
    try:
        with work.locked(job.share):
            if work.published(plan):
                if job.share is None:
                    work.tidy()
                return TokenStore.open(job.output)
            if job.output.exists() and not job.overwrite and job.after is None:
                raise FileExistsError(f"{job.output} exists; choose another output, or replace it with overwrite=true")
            mark = work.begin(plan, job.overwrite, together=job.share is not None)
            with (executor or Local()).open(workers) as engine:
                first = 0 if job.after is None else len(job.after.files)
                steps = Steps(work, mark, dict(enumerate(job.inputs, first)), engine, workers, job.on_error)
                if job.share is not None:
                    _do_share(job, job.share, steps, state)
                    return None
                _steps(job, steps, state)
            work.publish()
    except BaseException:
        work.abandon()
        raise
    finally:
        release()
        arrange.release_inputs()
    return TokenStore.open(job.output)


def _steps(job: Job, steps: Steps, state: dict[str, Any]) -> None:
    """All steps; at the end the store is whole in the working folder."""
    surveys, run = _surveyed(job, steps)
    if not steps.work.has("tokenizer"):
        if not job.tokenizer.fitted:
            state = fit(job.tokenizer, steps, part_keys(run, steps.files), job.block_size).to_dict()
        steps.work.save("tokenizer", state)
    steps.each_file("genes", check_genes)
    _require_files(steps)
    keys, sizes = part_keys(run, steps.files)
    parts = _encode(job, steps, run, dict(zip(keys, sizes, strict=True)))
    _require_files(steps)
    if not any(record["part"]["cells"] for record in parts.values()):
        raise ValueError(f"no cell is left of {sum(sizes)}: {_reasons(parts)}")
    finish(steps, run, surveys, parts, job.after)


def _do_share(job: Job, share: Share, steps: Steps, state: dict[str, Any]) -> None:
    """A share of the parts; of the statistics first, where the tokenizer is to be fitted and they are not complete."""
    _, run = _surveyed(job, steps)
    keys, sizes = part_keys(run, steps.files)
    own = own_parts(share, keys, sizes)
    if not steps.work.has("tokenizer"):
        if not job.tokenizer.fitted:
            count(steps, (list(own), list(own.values())), job.block_size)
            if not all_done(steps, "statistics", keys, share):
                log.info("When all shares are counted, start each of them again.")
                return
            state = fit(job.tokenizer, steps, (keys, sizes), job.block_size).to_dict()
        steps.work.save("tokenizer", state)
    steps.run("genes", check_genes, sorted({key.split("-")[0] for key in own}))
    _encode(job, steps, run, own)
    if all_done(steps, "parts", keys, share):
        log.info("All parts are done: the same command without share makes the store of them.")


def _surveyed(job: Job, steps: Steps) -> tuple[dict[int, dict[str, Any]], Context]:
    """The record of each file, and the run as workers know it."""
    surveys = steps.each_file("survey", survey_file)
    _require_files(steps)
    _save_corpus(job, steps, surveys)
    return surveys, context(str(steps.work.folder), steps.mark)


def _encode(job: Job, steps: Steps, run: Context, parts: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The records of some parts, given by their keys and cells; what lies there is not done again."""
    whole = partial(_lies_there, run)
    return steps.run("parts", encode_part, list(parts), job.block_size, cells=list(parts.values()), valid=whole)


def _save_corpus(job: Job, steps: Steps, surveys: Mapping[int, Mapping[str, Any]]) -> None:
    """Fix the corpus-wide tables; where they are not those of an earlier start, its work is done again."""
    after = {} if job.after is None else {name: job.after.categories(name) for name in job.after.columns}
    columns = merge_columns(((steps.inputs[n]["path"], surveys[n]["columns"]) for n in steps.files), after)
    cells = {str(n): min(surveys[n]["cells"], job.options.limit or surveys[n]["cells"]) for n in steps.files}
    corpus = {
        "columns": {name: columns.get(name) for name in job.options.obs},
        "cells": cells,
        "cells_per_part": job.options.part_size(sum(cells.values())),
    }
    if steps.work.has("corpus") and steps.work.load("corpus") != corpus:
        if job.share is not None:
            raise ValueError(f"share={job.share} finds other cells or labels than the share that was started first")
        steps.work.forget()
    steps.work.save("corpus", corpus)


def part_keys(run: Context, files: Sequence[int]) -> tuple[list[str], list[int]]:
    """``FILE-PART`` of every part of some files, and their cells."""
    size = run.corpus["cells_per_part"]
    pairs = [(file, part) for file in files for part in range(-(-run.cells(file) // size))]
    ranges = [run.range(*pair) for pair in pairs]
    return [f"{file:05d}-{part:05d}" for file, part in pairs], [stop - start for start, stop in ranges]


def _reasons(parts: Mapping[str, Mapping[str, Any]]) -> str:
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
