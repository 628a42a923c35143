"""The last step: repeated cells, the second pass where one is asked for, and the files beside the parts."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from scfm.preparation.rearrange import mark_repeats, rearrange_parts
from scfm.preparation.report import write_report
from scfm.preparation.steps import Steps
from scfm.preparation.summary import FileSummary, corpus_summary, format_table, merge_summaries
from scfm.preparation.worker import WorkerState
from scfm.store.layout import MANIFEST, REPORT, PartRecord, StoreMeta, write_layout
from scfm.store.manifest import read_manifest, read_parts, write_manifest
from scfm.store.token_store import TokenStore

log = logging.getLogger(__name__)


def assemble_store(
    steps: Steps,
    run: WorkerState,
    surveys: Mapping[int, Mapping[str, Any]],
    parts: Mapping[str, Mapping[str, Any]],
    after: TokenStore | None,
) -> None:
    """Make the working folder's ``store`` whole.

    Args:
        steps: of the run.
        run: its state.
        surveys: record of each file.
        parts: record of each part.
        after: the store to which they are added.

    Raises:
        ValueError: no cell is left; with the reasons.
    """
    _require_cells(parts)
    repeated = None
    if run.options["duplicates"] != "keep":
        repeated = mark_repeats(run, list(parts), after)
    written = rearrange_parts(steps, run, list(parts)) if run.has_second_pass else list(parts.values())
    records = [*_link_parts(run, after), *(PartRecord(**record["part"]) for record in written)]
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
        tokenizer=run.tokenizer_state,
        columns=run.corpus["columns"],
        group=run.options["group"],
        files=[*(after.files if after is not None else []), *files],
        counts=run.options["keep_counts"],
        shuffled=run.options["seed"] if run.options["shuffle"] else None,
        fields=run.corpus.get("fields", {}),
        report=corpus if after is None else merge_summaries(after.report, corpus),
    )
    write_layout(run.work.store, meta, records)
    write_report(TokenStore.open(run.work.store), run.work.store / REPORT)
    write_manifest(run.work.store, records, {"options": run.options})
    log.info("\n%s", format_table(files, corpus))


def _require_cells(parts: Mapping[str, Mapping[str, Any]]) -> None:
    if any(record["part"]["cells"] for record in parts.values()):
        return
    dropped: Counter[str] = Counter()
    for record in parts.values():
        dropped.update(record["dropped"])
    reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
    raise ValueError(f"no cell is left of {sum(record['cells'] for record in parts.values())}: {reasons}")


def _link_parts(run: WorkerState, after: TokenStore | None) -> list[PartRecord]:
    """Link the parts of the old store into the new one; copy them if the disk cannot link."""
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
