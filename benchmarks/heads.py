"""Fine-tuned heads beside the simple methods that a user would pick instead, on the same cells, in one run.

python benchmarks/heads.py --data ../shared/data [--task annotation] [--sets pbmc3k nsclc] [--seeds 3] [--judge]
python benchmarks/heads.py --sets my.yaml --data FOLDER      # your own files, see docs/benchmarks.md

Sets for tuning are run; with --judge those for judging (benchmarks/sets.py), and each look is logged and counted.
Every step is one of the real commands: scfm-prepare, scfm-train (once: experiment=atlas_small, without labels, on human
files that judge nothing), scfm-finetune with the experiment of each head. A seed is a new split into training,
validation, calibration and test cells, a new start and a new order of cells; all methods are judged on its test cells.
Finished rows lie in OUTPUT/rows.json: a run that was ended goes on after the last. Prints where ours wins, is level or
loses; the paired differences to the best rival; one table a task, mean ± standard deviation over seeds; and writes them
to OUTPUT/tables.md.
"""

import argparse
import json
import logging
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from differences import compare, describe, format_table
from looks import LOOKS, describe_looks, record_look
from sets import CellSet, from_yaml, judging, tuning
from tasks import TASKS
from tasks.bench import Bench

log = logging.getLogger("heads")
#: Columns that come last: wall time, and the peak memory of the process until then.
COSTS = ("seconds", "GiB")


class Rows:
    """What has been measured, kept after every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a row of this task, set, setting, method and seed is there."""
        return any(key.items() <= row.items() for row in self.rows)

    def measure(self, key: dict[str, Any], function: Callable[[], dict[str, float]]) -> None:
        """Add a row: what the function gives, and its seconds and the peak memory of this process so far."""
        if self.has(key):
            return
        began = time.perf_counter()
        found = function()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.rows.append({**key, **found, "seconds": time.perf_counter() - began, "GiB": peak})
        log.info("%s", self.rows[-1])
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.rows, indent=1))
        part.replace(self.path)


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One table a task: a line for each set, setting and method, mean ± deviation over seeds."""
    frame = pd.DataFrame(rows)
    keys = ["set", "setting", "method"]
    frame = frame.drop(columns="role", errors="ignore")
    for task, own in frame.groupby("task", sort=False):
        measured = [name for name in own if name not in (*keys, *COSTS, "task", "seed") and own[name].notna().any()]
        numbers = [*measured, *(name for name in COSTS if name in own)]
        groups = own.groupby(keys, sort=False)
        mean, spread = groups[numbers].mean(), groups[numbers].std()
        lines = ["| " + " | ".join([*keys, "seeds", *numbers]) + " |", "|---" * (len(keys) + 1 + len(numbers)) + "|"]
        order = mean.reset_index().sort_values(["set", "setting", numbers[0]], ascending=[True, True, False])
        for key in order[keys].itertuples(index=False, name=None):
            cells = [_cell(name, mean.at[key, name], spread.at[key, name]) for name in numbers]
            lines.append("| " + " | ".join([*key, str(len(groups.get_group(key))), *cells]) + " |")
        yield f"## {task}\n\n" + "\n".join(lines) + "\n"


def _cell(name: str, mean: float, spread: float) -> str:
    if np.isnan(mean):
        return ""
    if name in COSTS:
        return f"{mean:.0f}" if name == "seconds" else f"{mean:.1f}"
    return f"{mean:.3f}" if np.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def chosen_sets(task: str, names: Sequence[str], *, judge: bool) -> list[CellSet]:
    """The sets of a task that a command line asks for.

    Args:
        task: one of ``TASKS``.
        names: of sets, or a yaml of a user's own; none for all of the role.
        judge: sets for judging instead of those for tuning; a yaml says itself.

    Raises:
        ValueError: a name that no task has.
    """
    if len(names) == 1 and Path(names[0]).suffix in (".yaml", ".yml"):
        return list(from_yaml(Path(names[0])).get(task, {}).values())
    choose = judging if judge else tuning
    wrong = [name for name in names if not any(name in choose(each) for each in TASKS)]
    if wrong:
        role, other = ("judging", "without") if judge else ("tuning", "with")
        known = sorted({name for each in TASKS for name in choose(each)})
        raise ValueError(
            f"--sets {' '.join(wrong)}: no set for {role}; choose from {', '.join(known)}, name a .yaml, or run "
            f"{other} --judge"
        )
    return [one for name, one in choose(task).items() if not names or name in names]


def report(rows: list[dict[str, Any]], sets: Sequence[CellSet], looks: Path) -> str:
    """Where ours stands, the paired differences, the tables, the looks."""
    if not rows:
        return "Nothing was measured.\n"
    table = compare(rows)
    first = [describe(table), "", *format_table(table), ""] if len(table) else []
    return "\n".join([*first, *tables(rows), describe_looks(sets, looks), ""])


def main() -> None:
    """Run the tasks that are asked for, print the tables of all that has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the .h5ad files")
    parser.add_argument("--output", type=Path, default=Path("outputs/heads"))
    parser.add_argument("--task", choices=list(TASKS), nargs="*", default=list(TASKS))
    parser.add_argument("--sets", nargs="*", default=[], help="only these sets, or a yaml that names your own files")
    parser.add_argument("--judge", action="store_true", help="sets for judging; each look is logged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--init_from", type=Path, help="a pretrained checkpoint, instead of pretraining one")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.output.mkdir(parents=True, exist_ok=True)
    own = any(Path(name).suffix in (".yaml", ".yml") for name in asked.sets)
    looks = asked.output / "looks.jsonl" if own else LOOKS
    sets = {task: chosen_sets(task, asked.sets, judge=asked.judge) for task in asked.task}
    rows = Rows(asked.output / "rows.json")
    for task, chosen in sets.items():
        bench = Bench(asked.data, asked.output, asked.init_from, task)
        for one in chosen:
            log.info("%s, %s: look %d.", task, one.name, record_look(one, path=looks))
            for seed in range(asked.seeds):
                TASKS[task](bench, rows.measure, one, seed)
    text = report(rows.rows, [one for chosen in sets.values() for one in chosen], looks)
    (asked.output / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
