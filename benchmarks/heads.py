"""Fine-tuned heads beside the simple methods that a user would pick instead, on the same cells, in one run.

python benchmarks/heads.py --data ../shared/data [--task annotation] [--sets zheng breast] [--seeds 3]

Every step is one of the real commands: scfm-prepare, scfm-train (once: experiment=atlas_small, without labels, on all
human files, those that are judged included), scfm-finetune with the experiment of each head. A seed is a new split into
training, validation, calibration and test cells, a new start and a new order of cells; all methods are judged on its
test cells. Finished rows lie in OUTPUT/rows.json: a run that was ended goes on after the last. Prints one table a task,
mean ± standard deviation over seeds, and writes them to OUTPUT/tables.md.
"""

import argparse
import json
import logging
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tasks import TASKS
from tasks.bench import SETS, Bench

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


def main() -> None:
    """Run the tasks that are asked for, print the tables of all that has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the .h5ad files")
    parser.add_argument("--output", type=Path, default=Path("outputs/heads"))
    parser.add_argument("--task", choices=list(TASKS), nargs="*", default=list(TASKS))
    parser.add_argument("--sets", choices=list(SETS), nargs="*", help="only these sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--init_from", type=Path, help="a pretrained checkpoint, instead of pretraining one")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = Rows(asked.output / "rows.json")
    bench = Bench(asked.data, asked.output, asked.init_from)
    for task in asked.task:
        for name, one in SETS.items():
            if one.task == task and (not asked.sets or name in asked.sets):
                for seed in range(asked.seeds):
                    TASKS[task](bench, rows.measure, name, one, seed)
    text = "\n".join(tables(rows.rows)) if rows.rows else "Nothing was measured.\n"
    (asked.output / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
