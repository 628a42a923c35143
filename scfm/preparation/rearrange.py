"""The second pass over a corpus: without duplicates, in the order of the files or shuffled as a whole.

The shuffled order sorts all cells by a 64-bit number that is a function of (seed, file, row). The cells of every part
are sorted by it, so an output part is a short stretch of each input part: memory is bounded by one stretch of the
output, and output parts are written independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scfm.io import atomic_write
from scfm.preparation.steps import Steps
from scfm.preparation.worker import WorkerState, worker_state
from scfm.store.arrow import read_table
from scfm.store.layout import write_json
from scfm.store.token_store import TokenStore
from scfm.store.writer import Cells, PartWriter

#: Cells held at a time.
STRETCH = 16_384
#: Hashes held at a time in the search for duplicates.
HASHES = 1 << 22


def splitmix64(x: np.ndarray) -> np.ndarray:
    """splitmix64: a bijection of uint64 whose values look drawn at random (Steele et al., OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def flag_repeats(hashes: Sequence[np.ndarray], at_once: int = HASHES) -> list[np.ndarray]:
    """Flag cells that occur before, in this part or an earlier one.

    Args:
        hashes: uint64 of each part's cells.
        at_once: about so many hashes are compared at a time, in ranges of their value.

    Returns:
        For each part, bool per cell.
    """
    flags = [np.zeros(len(part), dtype=bool) for part in hashes]
    ranges = max(1, -(-sum(map(len, hashes)) // at_once))
    for number in range(ranges):
        found = [np.flatnonzero(_bucket(part, ranges) == number) for part in hashes]
        values = np.concatenate([part[rows] for part, rows in zip(hashes, found, strict=True)])
        later = np.ones(len(values), dtype=bool)
        later[np.unique(values, return_index=True)[1]] = False
        ends = np.cumsum([len(rows) for rows in found])[:-1]
        for flag, rows, late in zip(flags, found, np.split(later, ends), strict=True):
            flag[rows] = late
    return flags


def _bucket(values: np.ndarray, n: int) -> np.ndarray:
    """For each value, which of ``n`` equal ranges of uint64 it is in."""
    return ((values >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)


def order_part(folder: str, plan_hash: str, key: str) -> dict[str, Any]:
    """Sort the kept cells of a part by their place in the shuffled corpus, and record their number."""
    run = worker_state(folder, plan_hash)
    n_cells = read_table([run.parts_folder / f"data-{key}.arrow"]).num_rows
    kept = np.arange(n_cells)
    if run.options["duplicates"] == "drop":
        kept = np.flatnonzero(~np.load(run.work.folder / "repeated" / f"{key}.npy"))
    if run.options["shuffle"]:
        file, part = map(int, key.split("-"))
        first = np.uint64(file << 40) + np.uint64(run.part_range(file, part)[0])
        seed = splitmix64(np.array([run.options["seed"]], dtype=np.uint64))
        numbers = splitmix64(splitmix64(kept.astype(np.uint64) + first) ^ seed)
        order = np.argsort(numbers, kind="stable")
        kept, numbers = kept[order], numbers[order]
    else:
        numbers = np.zeros(len(kept), dtype=np.uint64)
    place = run.work.folder / "order"
    _save_array(place / f"{key}.rows.npy", kept)
    _save_array(place / f"{key}.numbers.npy", numbers)
    record = {"cells": len(kept)}
    write_json(run.work.record_path("order", key), record)
    return record


def write_part(folder: str, plan_hash: str, key: str) -> dict[str, Any]:
    """Write one part of the final store."""
    run = worker_state(folder, plan_hash)
    inputs, columns = _inputs(folder, plan_hash), list(run.corpus["columns"])
    with PartWriter(run.work.store / f"data-{key}.arrow", run.work.scratch) as writer:
        if run.options["shuffle"]:
            for low, high in _stretches(int(key), run.work.load_state("arranged")):
                writer.write(Cells.from_table(_stretch(inputs, low, high), columns))
        else:
            source = inputs[key]
            for start in range(0, len(source.rows), STRETCH):
                rows = pa.array(source.rows[start : start + STRETCH])
                writer.write(Cells.from_table(source.table.take(rows), columns))
        record = {"part": asdict(writer.close())}
    write_json(run.work.record_path("arranged", key), record)
    return record


class _Input:
    """A part of the first pass, with the order of its cells."""

    def __init__(self, run: WorkerState, key: str) -> None:
        place = run.work.folder / "order"
        self.table = read_table([run.parts_folder / f"data-{key}.arrow"])
        self.rows = np.load(place / f"{key}.rows.npy", mmap_mode="r")
        self.numbers = np.load(place / f"{key}.numbers.npy", mmap_mode="r")


@lru_cache(maxsize=1)
def _inputs(folder: str, plan_hash: str) -> dict[str, _Input]:
    run = worker_state(folder, plan_hash)
    return {key: _Input(run, key) for key in run.work.load_state("arranged")["keys"]}


def _stretches(part: int, plan: dict[str, Any]) -> list[tuple[int, int]]:
    """The ranges of numbers of one output part, each of about :data:`STRETCH` cells; ends are exclusive."""
    within = max(1, -(-plan["cells"] // (plan["parts"] * STRETCH)))
    total = plan["parts"] * within
    edges = [(1 << 64) * i // total for i in range(part * within, (part + 1) * within + 1)]
    return list(pairwise(edges))


def _stretch(inputs: dict[str, _Input], low: int, high: int) -> pa.Table:
    """All cells whose number is in [low, high), in the order of their numbers."""
    tables, numbers = [], []
    for source in inputs.values():
        ends = [
            len(source.numbers) if edge == 1 << 64 else int(np.searchsorted(source.numbers, np.uint64(edge)))
            for edge in (low, high)
        ]
        tables.append(source.table.take(pa.array(source.rows[ends[0] : ends[1]])))
        numbers.append(source.numbers[ends[0] : ends[1]])
    return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(numbers), kind="stable")))


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as part, part.open("wb") as file:
        np.save(file, array)


def close_inputs() -> None:
    """Close the parts of the first pass."""
    _inputs.cache_clear()


def mark_repeats(run: WorkerState, keys: Sequence[str], after: TokenStore | None) -> dict[str, int]:
    """Mark the cells that occur before, also in the store ``after``; their number in each part."""
    columns = [read_table([run.parts_folder / f"data-{key}.arrow"]) for key in keys]
    hashes = [table["hash"].to_numpy() if len(table) else np.zeros(0, np.uint64) for table in columns]
    before = np.zeros(0, np.uint64) if after is None else after.hashes
    flags = dict(zip(keys, flag_repeats([before, *hashes])[1:], strict=True))
    for key, flag in flags.items():
        _save_array(run.work.folder / "repeated" / f"{key}.npy", flag)
    return {key: int(flag.sum()) for key, flag in flags.items()}


def rearrange_parts(steps: Steps, run: WorkerState, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Run the second pass; the records of the final parts in order."""
    steps = steps.stop_on_error()
    keys = [key for key in keys if read_table([run.parts_folder / f"data-{key}.arrow"]).num_rows]
    kept = sum(record["cells"] for record in steps.run_tasks("order", order_part, keys).values())
    size = run.corpus["cells_per_part"]
    outputs = [f"{number:05d}" for number in range(-(-kept // size))] if run.options["shuffle"] else keys
    run.work.save_state("arranged", {"keys": keys, "cells": kept, "parts": len(outputs)})
    records = steps.run_tasks("arranged", write_part, outputs, cells=[kept // len(outputs)] * len(outputs))
    return [records[key] for key in outputs]
