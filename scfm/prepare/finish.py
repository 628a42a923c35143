"""The last step: repeated cells, the second pass where one is asked for, and what stands beside the parts."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

from scfm.prepare import rearrange as arrange
from scfm.prepare.report import write_report
from scfm.prepare.steps import Steps
from scfm.prepare.summary import FileSummary, corpus_summary, joined, table
from scfm.prepare.worker import Context
from scfm.store.layout import MANIFEST, REPORT, PartRecord, StoreMeta, write_layout
from scfm.store.manifest import read_manifest, read_parts, write_manifest
from scfm.store.token_store import TokenStore

log = logging.getLogger(__name__)


def finish(
    steps: Steps,
    run: Context,
    surveys: Mapping[int, Mapping[str, Any]],
    parts: Mapping[str, Mapping[str, Any]],
    after: TokenStore | None,
) -> None:
    """Make the working folder's ``store`` whole.

    Args:
        steps: of the run.
        run: what it knows.
        surveys: record of each file.
        parts: record of each part.
        after: the store to which they are added.
    """
    repeated = None
    if run.options["duplicates"] != "keep":
        repeated = arrange.find_repeated(run, list(parts), after)
    written = arrange.arranged(steps, run, list(parts)) if run.arranged else list(parts.values())
    records = [*_linked(run, after), *(PartRecord(**record["part"]) for record in written)]
    summaries = {}
    for file in steps.files:
        own = {key: record for key, record in parts.items() if key.startswith(f"{file:05d}-")}
        seen = None if repeated is None else sum(repeated[key] for key in own)
        summaries[file] = FileSummary(run, file, surveys[file], own, seen)
    files = [
        {"name": entry["name"]} | (summaries[n].to_dict() if n in summaries else {"skipped": steps.skipped[n]})
        for n, entry in steps.inputs.items()
    ]
    corpus = corpus_summary(list(summaries.values()))
    meta = StoreMeta(
        tokenizer=run.state,
        columns=run.corpus["columns"],
        group=run.options["group"],
        files=[*(after.files if after is not None else []), *files],
        counts=run.options["keep_counts"],
        shuffled=run.options["seed"] if run.options["shuffle"] else None,
        report=corpus if after is None else joined(after.report, corpus),
    )
    write_layout(run.work.store, meta, records)
    write_report(TokenStore.open(run.work.store), run.work.store / REPORT)
    write_manifest(run.work.store, records, {"options": run.options})
    log.info("\n%s", table(files, corpus))


def _linked(run: Context, after: TokenStore | None) -> list[PartRecord]:
    """The parts of the store that is added to, linked into the new one (copied where the disk cannot link)."""
    if after is None:
        return []
    records = read_parts(read_manifest(after.path), after.path / MANIFEST)
    for record in records:
        target = run.work.store / record.name
        target.unlink(missing_ok=True)
        try:
            os.link(after.path / record.name, target)
        except OSError:
            shutil.copyfile(after.path / record.name, target)
    return records
