"""Phenotypes, bulk cohorts, clusters, smaller models, responses, hidden molecules: real cells, simple methods beside.

python benchmarks/cohorts.py --init_from CHECKPOINT [--data ../shared/data] [--task phenotype shift] [--seeds 1]

Every step is one of the real commands. Finished rows lie in OUTPUT/rows.json: a run that was ended goes on after the
last. Prints one table a task, mean ± standard deviation over seeds, and writes them to OUTPUT/tables.md. Without
--init_from experiment=atlas_small is pretrained first, as by heads.py. zheng and a549 judge tasks of
heads.py: they are read by denoise and decode, and each look is noted in looks.jsonl.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cohort_tasks.base import Set
from cohort_tasks.bulk import bulk
from cohort_tasks.clustering import clustering
from cohort_tasks.compress import compress
from cohort_tasks.decode import decode
from cohort_tasks.denoise import denoise
from cohort_tasks.phenotype import phenotype
from cohort_tasks.shift import shift
from heads import Rows, tables
from looks import record_look
from sets import CellSet
from tasks.bench import Bench, Measure

SETS = {
    "melanoma": Set("melanoma_icb_19patients_logtpm", "response", "patient"),
    "onek1k_sex": Set("onek1k_40donor_1000g", "sex", "donor"),
    "icb_bulk": Set("icb_bulk_5cohort", "response", "cohort"),
    "pbmc3k": Set("pbmc3k", "cell_type"),
    "zheng": Set("zheng_sorted_pbmc_3500", "cell_type"),
    "a549": Set("a549_dex_scicar", "time"),
    "gbm": Set("gbm_panobinostat_3patients", "condition", "patient_id"),
}
#: Sets that judge a task of heads.py.
JUDGES = ("zheng", "a549")
TASKS: dict[str, tuple[Callable[[Bench, Measure, str, Set, int], None], tuple[str, ...]]] = {
    "phenotype": (phenotype, ("melanoma", "onek1k_sex")),
    "bulk": (bulk, ("icb_bulk",)),
    "shift": (shift, ("gbm",)),
    "clustering": (clustering, ("pbmc3k",)),
    "compress": (compress, ("pbmc3k",)),
    "denoise": (denoise, ("pbmc3k", "zheng")),
    "decode": (decode, ("a549",)),
}


def main() -> None:
    """Run the tasks that are asked for, print the tables of all that has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the .h5ad files")
    parser.add_argument("--output", type=Path, default=Path("outputs/cohorts"))
    parser.add_argument("--task", choices=list(TASKS), nargs="*", default=list(TASKS))
    parser.add_argument("--sets", choices=list(SETS), nargs="*", help="only these sets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", type=int, default=0, help="read as many cells of pbmc3k, drawn at random; 0: all")
    parser.add_argument("--init_from", type=Path, help="a pretrained checkpoint, instead of pretraining one")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = Rows(asked.output / "rows.json")
    bench = Bench(asked.data, asked.output, asked.init_from)
    for task in asked.task:
        function, names = TASKS[task]
        for name in names:
            if not asked.sets or name in asked.sets:
                record_look(
                    CellSet(name, (SETS[name].file,), task=task, role="judging" if name in JUDGES else "tuning")
                )
                for seed in range(asked.seeds):
                    one = replace(SETS[name], cells=0 if SETS[name].group else asked.cells)  # donors stay whole
                    function(bench, rows.measure, name, one, seed)
    text = "\n".join(tables(rows.rows)) if rows.rows else "Nothing was measured.\n"
    (asked.output / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
