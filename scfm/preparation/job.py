"""A job and its execution: the steps in order, each doing what is not recorded, then the rename."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scfm.io import require_replaceable
from scfm.preparation.assemble import assemble_store
from scfm.preparation.encode import encode_parts
from scfm.preparation.executors import Dask, Local
from scfm.preparation.fit_tokenizer import count_genes, save_tokenizer
from scfm.preparation.options import Options, Share
from scfm.preparation.rearrange import close_inputs
from scfm.preparation.steps import Steps
from scfm.preparation.survey import check_genes, fix_corpus, survey_files
from scfm.preparation.workdir import WorkDir
from scfm.preparation.worker import close_files
from scfm.store.layout import META, VERSION
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

#: Bytes of inputs below which ``workers=None`` takes one worker: starting more would take longer.
SMALL = 200_000_000


@dataclass(frozen=True)
class Job:
    """A run of ``prepare`` or ``append``.

    Attributes:
        inputs: see :func:`scfm.preparation.options.resolve_inputs`.
        output: the store.
        tokenizer: fitted or not.
        options: all other values that the bytes depend on.
        block_size: cells held at a time.
        on_error: ``stop`` or ``skip`` at a bad file.
        overwrite: replace an existing output, start over if an unfinished one differs.
        after: the store to which the inputs are added; None makes a new one.
        share: the share of the parts to do; None does all that is missing.

    Raises:
        ValueError: an option has an unexpected value.
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
                "out; give input=... without that file"
            )
        if self.on_error not in ("stop", "skip") or self.block_size < 1:
            raise ValueError(
                f"on_error={self.on_error!r}, block_size={self.block_size}: expected stop or skip, and at least 1"
            )

    def plan(self) -> dict[str, Any]:
        """Everything that the bytes of the store depend on, as plain values: it identifies an unfinished run."""
        return {
            "version": VERSION,
            "inputs": self.inputs,
            "tokenizer": hashlib.sha256(json.dumps(self.tokenizer.to_dict()).encode()).hexdigest(),
            "options": asdict(self.options),
            "after": None if self.after is None else {"files": len(self.after.files), "store": self.after.fingerprint},
        }


def execute(job: Job, workers: int | None = None, executor: Local | Dask | None = None) -> TokenStore | None:
    """Run a job, or what is missing of it; docs/architecture.md lists the steps.

    Args:
        job: the job.
        workers: number of workers; None takes one for small inputs, else one per core.
        executor: where tasks run; None is :class:`scfm.preparation.executors.Local`.

    Returns:
        The store; None after a share of the work.

    Raises:
        FileExistsError, ValueError, RuntimeError, OSError: see :func:`scfm.preparation.api.prepare`.
    """
    if workers is None:
        workers = 1 if sum(entry["size"] for entry in job.inputs) < SMALL else len(os.sched_getaffinity(0))
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    work, plan = WorkDir(job.output), job.plan()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with work.lock(job.share):
            if work.is_published(plan):
                if job.share is None:
                    work.cleanup()
                return TokenStore.open(job.output)
            if job.output.exists() and not job.overwrite and job.after is None:
                raise FileExistsError(f"{job.output} exists; choose another output, or replace it with overwrite=true")
            if job.after is None:
                require_replaceable(job.output, {META}, [entry["path"] for entry in job.inputs])
            plan_hash = work.begin(plan, job.overwrite, together=job.share is not None)
            with (executor or Local()).open(workers) as engine:
                first = 0 if job.after is None else len(job.after.files)
                steps = Steps(work, plan_hash, dict(enumerate(job.inputs, first)), engine, workers, job.on_error)
                if job.share is not None:
                    _run_share(job, job.share, steps)
                    return None
                _run_steps(job, steps)
            work.publish()
    except BaseException:
        work.release()
        raise
    finally:
        close_files()
        close_inputs()
    return TokenStore.open(job.output)


def _run_steps(job: Job, steps: Steps) -> None:
    """All steps; at the end the store is whole in the working folder."""
    surveys = survey_files(steps)
    run = fix_corpus(steps, surveys, job.options, job.after)
    parts = run.list_parts(steps.files)
    save_tokenizer(job.tokenizer, steps, parts, job.block_size)
    steps.run_files("genes", check_genes)
    parts = run.list_parts(steps.files)
    records = encode_parts(steps, run, parts, job.block_size)
    assemble_store(steps, run, surveys, records, job.after)


def _run_share(job: Job, share: Share, steps: Steps) -> None:
    """A share of the parts; of the statistics first, where the tokenizer is to be fitted and they are not complete."""
    run = fix_corpus(steps, survey_files(steps), job.options, job.after, share)
    parts = run.list_parts(steps.files)
    own = share.select_parts(parts)
    if not job.tokenizer.fitted and not steps.work.has_state("tokenizer"):
        count_genes(steps, own, job.block_size)
        if not steps.is_complete("statistics", parts, share):
            log.info("When all shares are counted, start each of them again.")
            return
    save_tokenizer(job.tokenizer, steps, parts, job.block_size)
    steps.run_tasks("genes", check_genes, sorted({key.split("-")[0] for key in own}))
    encode_parts(steps, run, own, job.block_size)
    if steps.is_complete("parts", parts, share):
        log.info("All parts are done: the same command without share makes the store of them.")
