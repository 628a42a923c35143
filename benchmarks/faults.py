"""Stops every command at random moments, gives it broken and hostile inputs, and prints what was lost.

python benchmarks/faults.py [--kills 5] [--inputs 8] [--only KIND] [--seed 0] [--rows rows.json]

Each command is stopped by SIGKILL, SIGTERM and SIGINT in turn, at a random time, after a random line of its log, or
between its last step and its report; then the same command runs again. Survived: it gives the bytes (a store, the
embedded arrays, the scores) or bits (weights, losses, metrics) of a run that was left alone. Broken inputs are right
where the result is that of sound ones or what anndata reads, and refused where the command ends with one sentence.
Commands run in forked processes: an import is paid once. With ``--rows``, each finished row is kept in that file, and
the same command goes on after it, as long as scfm's source is the same. Exit status 1 when something was lost.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401 - first: a fork must not meet threads of its parent
import torch
from hostile import families, try_inputs
from interrupted import SIGNALS, Count, Kind, kinds, make_base, run_undisturbed, stop_once

SOURCE = Path(__file__).resolve().parents[1] / "scfm"


def hash_source() -> str:
    """Twelve digits that change with any file of scfm and of this benchmark."""
    whole = hashlib.sha256()
    for folder in (SOURCE, SOURCE.parent / "configs", Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")) + sorted(folder.rglob("*.yaml")):
            whole.update(path.relative_to(SOURCE.parent).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()[:12]


class Rows:
    """Finished rows, kept in a file where one is named.

    Args:
        path: the file; None keeps nothing.
        about: what a row depends on beside its name.
    """

    def __init__(self, path: Path | None, **about: Any) -> None:
        self.path, self.about = path, about
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path is not None and path.is_file() else []

    def count(self, name: str, tries: int, function: Callable[[], Count]) -> Count:
        """The row of this name: kept from before, or what the function gives."""
        key = {"name": name, "tries": tries, **self.about}
        kept = next((row for row in self.rows if key.items() <= row.items()), None)
        if kept is not None:
            return Count(**{**kept["count"], "notes": tuple(kept["count"]["notes"])})
        count = function()
        if self.path is not None:
            self.rows.append({**key, "count": asdict(count)})
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.rows, indent=1))
            part.replace(self.path)
        return count


def count_stops(kind: Kind, base: Path, kills: int, seed: int) -> Count:
    """What became of the stops of one kind of command."""
    draw = random.Random(f"{seed} {kind.name}")
    alone = run_undisturbed(kind, base.parent / "work")
    total, attempt = Count(), 0
    while total.tried < kills and attempt < 4 * kills:
        number = SIGNALS[attempt % len(SIGNALS)]
        total += stop_once(kind, alone, base.parent / "work", number, draw)
        attempt += 1
    return total


def count_rows(rows: Rows, base: Path, asked: argparse.Namespace) -> Iterator[tuple[str, Count]]:
    """Every row of the table whose name contains what was asked for."""
    tasks: list[tuple[str, int, Callable[[], Count]]] = [
        (kind.name, asked.kills, partial(count_stops, kind, base, asked.kills, asked.seed)) for kind in kinds()
    ]
    tasks += [
        (family.name, asked.inputs, partial(try_inputs, family, base, asked.inputs, asked.seed))
        for family in families()
    ]
    for name, tries, function in tasks:
        if asked.only in name:
            yield name, rows.count(name, tries, function)


def print_row(name: str, count: Count) -> None:
    """One row of the table, and below it what was lost."""
    numbers = "".join(f" | {number}" for number in (count.tried, count.survived, count.refused, count.lost))
    print(f"| {name}{numbers} |", flush=True)
    for note in count.notes:
        print(f"  {note}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="stops of each kind of command")
    parser.add_argument("--inputs", type=int, default=8, help="broken inputs of each kind")
    parser.add_argument("--only", default="", help="part of the name of a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="file of finished rows, from which the same command goes on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.NOTSET)
    began, stops, inputs = time.process_time(), Count(), Count()
    rows = Rows(asked.rows, seed=asked.seed, source=hash_source())
    print("| kind | tried | same result | refused in a sentence | lost |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base)
        for name, count in count_rows(rows, base, asked):
            print_row(name, count)
            stops, inputs = (stops, inputs + count) if name.startswith("input:") else (stops + count, inputs)
    for name, total in (("all stops", stops), ("all inputs", inputs)):
        print_row(name, Count(total.tried, total.survived, total.refused, total.lost))
    times = os.times()
    minutes = (time.process_time() - began + times.children_user + times.children_system) / 60
    print(f"{minutes:.1f} CPU-minutes in this call; source {rows.about['source']}, seed {asked.seed}")
    sys.exit(stops.lost + inputs.lost > 0)


if __name__ == "__main__":
    main()
