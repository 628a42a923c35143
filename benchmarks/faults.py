"""Stops every command at random moments, gives it broken and hostile inputs, and prints what was lost.

python benchmarks/faults.py [--kills 5] [--inputs 8] [--only KIND] [--seed 0]

Each command is stopped by SIGKILL, SIGTERM and SIGINT in turn, at a random time, after a random line of its log, or
between its last step and its report; then the same command runs again. Survived: it gives the bytes (a store, the
embedded arrays, the scores) or bits (weights, losses, metrics) of a run that was left alone. Broken inputs are right
where the result is that of sound ones or what anndata reads, and refused where the command ends with one sentence.
Commands run in forked processes: an import is paid once. Exit status 1 when something was lost.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import one_thread  # noqa: F401 - first: a fork must not meet threads of its parent
import torch
from hostile import families, try_inputs
from interrupted import SIGNALS, Count, kinds, make_base, run_undisturbed, stop_once


def rows_of_stops(base: Path, kills: int, only: str, seed: int) -> Iterator[tuple[str, Count]]:
    """The kinds of commands whose name contains ``only``, and what became of their stops."""
    for kind in kinds():
        if only not in kind.name:
            continue
        draw = random.Random(f"{seed} {kind.name}")
        alone = run_undisturbed(kind, base.parent / "work")
        total, attempt = Count(), 0
        while total.tried < kills and attempt < 4 * kills:
            number = SIGNALS[attempt % len(SIGNALS)]
            total += stop_once(kind, alone, base.parent / "work", number, draw)
            attempt += 1
        yield kind.name, total


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
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.NOTSET)
    began, total = time.process_time(), Count()
    print("| kind | tried | same result | refused in a sentence | lost |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        make_base(base)
        for name, count in rows_of_stops(base, asked.kills, asked.only, asked.seed):
            print_row(name, count)
            total += count
        for family in families():
            if asked.only in family.name:
                count = try_inputs(family, base, asked.inputs, asked.seed)
                print_row(family.name, count)
                total += count
    print_row("all", Count(total.tried, total.survived, total.refused, total.lost))
    times = os.times()
    print(f"{(time.process_time() - began + times.children_user + times.children_system) / 60:.1f} CPU-minutes")
    sys.exit(total.lost > 0)


if __name__ == "__main__":
    main()
