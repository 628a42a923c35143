"""Every analysis on real cells: what a model reached, and what expression reached without it.

python benchmarks/analyses.py [--init_from scfm://small] [--data ../shared/data] [--sets ../shared/reference/genes_sets]
                              [--task perturb genes network explain communication] [--output outputs/analyses]

perturb: gbm_panobinostat_3patients, genes that change in a patient who is left out. The others: pbmc3k; explain and
communication ask a classifier that was fine-tuned on a random half of its cells about the other half. Finished rows lie
in OUTPUT/rows.json, a run that was ended goes on after the last. Prints a table, whoever wins, and the hardware.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from tasks.bench import call

from scfm.inference.model import Model, load
from scfm.io import write_text

Row = dict[str, str]
CLASSES = {
    "essential": ("CEGv2_subset_universe", "NEGv1_subset_universe"),
    "dominant": ("all_ad", "all_ar"),
}


@dataclass(frozen=True)
class Bench:
    """Where cells, gene sets and results are.

    Attributes:
        model: that is asked.
        init_from: its address.
        data: folder of the .h5ad files.
        sets: folder of the gene sets.
        output: folder of the results.
    """

    model: Model
    init_from: str
    data: Path
    sets: Path
    output: Path

    def halves(self) -> tuple[Path, Path]:
        """Two random halves of pbmc3k as files; cells without a name are left out."""
        paths = self.output / "taught.h5ad", self.output / "asked.h5ad"
        if not paths[1].exists():
            cells = ad.read_h5ad(self.data / "pbmc3k.h5ad")
            cells = cells[cells.obs["cell_type"] != "unknown"]
            order = np.random.default_rng(0).permutation(cells.n_obs)
            for path, rows in zip(paths, np.array_split(order, 2), strict=True):
                cells[np.sort(rows)].copy().write_h5ad(path)
        return paths

    def classifier(self) -> Model:
        """An annotation head on the model, fine-tuned on one half."""
        folder, store = self.output / "head", self.output / "store"
        best = folder / "checkpoints/best.ckpt"
        if not best.exists():
            if not store.exists():
                call(["prepare", f"init_from={self.init_from}", f"input={self.halves()[0]}", f"output={store}",
                                     "obs=[cell_type]", "keep_counts=true"])  # fmt: skip
            call(["finetune", f"init_from={self.init_from}", f"store={store}", f"output={folder}",
                                  "head=annotation/classifier", "head.label=cell_type", "data.max_length=1024",
                  "trainer.max_steps=20",
                                  "validate_every=10", "trainer.accelerator=cpu", "trainer.devices=1"])  # fmt: skip
        return load(best)

    def table(self, name: str, **columns: object) -> str:
        """A table of a gene set as .tsv; returns its path."""
        path = self.output / f"{name}.tsv"
        pd.DataFrame(columns).to_csv(path, sep="\t", index=False)
        return str(path)


def perturb(bench: Bench) -> list[Row]:
    """Deletion in treated cells towards untreated ones; truth: genes that change in a patient left out."""
    found = bench.model.analyse(
        "perturb", bench.data / "gbm_panobinostat_3patients.h5ad", state="condition", start="panobinostat",
        goal="ctrl", donor="patient_id", stimulated="input", max_cells=40, permutations=20,
    )  # fmt: skip
    alone = found.tables["baselines"].set_index("score")
    added = found.tables["added"].set_index("features")
    with_shift = added.loc["expression and shift"]
    n = int(found.tables["genes"]["changes"].eq(True).sum())
    names = ("logfc", "wilcoxon", "detections", "mean_rank", "shift_random")
    best = alone.loc[list(names), "auroc"].idxmax()
    return [
        row("perturb", f"AUROC of {n} of {len(found.tables['genes'])} genes that change", span(alone.loc["shift"]),
            f"{span(alone.loc[best])} ({best}); random weights {alone.loc['shift_random', 'auroc']:.3f}"),
        row("perturb", "AUROC of expression with the shift, folds of genes", span(with_shift),
            f"{span(added.loc['expression'])}; gain {gain(with_shift)}"),
        row("perturb", "average precision of the same", f"{with_shift['ap']:.3f}",
            f"{added.loc['expression', 'ap']:.3f}; gain {gain(with_shift, 'ap')}; "
            f"base rate {with_shift['base_rate']:.2f}"),
    ]  # fmt: skip


def genes(bench: Bench) -> list[Row]:
    """Classes of genes from frozen states, folds by gene."""
    lists = pd.read_csv(bench.sets / "gene_lists_macarthur.tsv.gz", sep="\t")
    rows = []
    for name, (yes, no) in CLASSES.items():
        own = lists[lists["list"].isin([yes, no])].drop_duplicates("symbol", keep=False)
        labels = bench.table(name, gene=own["symbol"], **{"class": np.where(own["list"] == yes, name, "other")})
        try:
            found = bench.model.analyse(
                "genes", bench.data / "pbmc3k.h5ad", labels=labels, positive=name, max_cells=400, occurrences=5
            )
        except ValueError as error:  # the layers of a model may read too few genes of a class
            rows.append(row("genes", f"{name} genes", "cannot be asked", str(error).split("; ")[-1]))
            continue
        scores = found.tables["scores"].set_index("method")
        best = scores.loc[["expression", "expression_pca"], "auroc"].idxmax()
        title = f"AUROC, {name} of {found.coverage['genes_scored']} genes"
        rows.append(row("genes", title, f"{span(scores.loc['contextual'])}; static {scores.loc['static', 'auroc']:.3f}",
                        f"{span(scores.loc[best])} ({best}); gain {gain(scores.loc['contextual'], '')}; "
                        f"random weights {scores.loc['random_weights', 'auroc']:.3f}"))  # fmt: skip
    return rows


def network(bench: Bench) -> list[Row]:
    """Edges of CollecTRI in monocytes."""
    known = pd.read_csv(bench.sets / "tf_target_collectri.tsv.gz", sep="\t")
    found = bench.model.analyse(
        "network", bench.data / "pbmc3k.h5ad", label="cell_type", group="CD14+ Mono",
        reference=bench.table("collectri", tf=known["tf"], target=known["target"]), max_cells=300, n_permutations=5,
    )  # fmt: skip
    table = found.tables["recovery"]
    first = {of: own.loc[own["auprc_ratio"].idxmax()] for of, own in table.groupby("of")}
    said = {of: f"{one['auprc_ratio']:.2f} ({one['score']})" for of, one in first.items()}
    chance = f"; random weights {said['random weights']}" if "random weights" in said else ""
    return [row("network", "AUPRC over chance, best score", said["model"], said["expression"] + chance),
            row("network", "gain on regulators left out", *gained(found.tables["gain"].iloc[0]))]  # fmt: skip


def explain(bench: Bench) -> list[Row]:
    """What the classifier's labels rest on, in the half that it has not seen."""
    found = bench.classifier().analyse("explain", bench.halves()[1], label="cell_type", max_cells=60)
    deletion = found.tables["deletion"].set_index(["genes", "score"])
    agreement = found.tables["agreement"].set_index("score")["precision_at_50"]

    def best(names: list[str], size: int = 5) -> str:
        own = deletion.loc[size].loc[names]
        name = own["excess"].idxmax()
        return f"{own.loc[name, 'excess']:.2f} [{own.loc[name, 'low']:.2f}, {own.loc[name, 'high']:.2f}] ({name})"

    ours = agreement[["integrated_gradients", "rollout"]]
    return [
        row("explain", "excess fall of the log odds, 5 genes taken out", best(["integrated_gradients", "rollout"]),
            best(["wilcoxon", "rank"])),
        row("explain", "share of 50 markers of other cells", f"{ours.max():.0%} ({ours.idxmax()})",
            f"{agreement['wilcoxon']:.0%} (Wilcoxon, the same cells)"),
    ]  # fmt: skip


def communication(bench: Bench) -> list[Row]:
    """Interactions by the classifier's names, beside those by the true names."""
    known = pd.read_csv(bench.sets / "ligand_receptor_liana.tsv.gz", sep="\t")
    own = known[known["resource"] == "consensus"]
    pairs = bench.table("pairs", ligand=own["ligand"], receptor=own["receptor"])
    found = bench.classifier().analyse("communication", bench.halves()[1], pairs=pairs, truth="cell_type",
                                       n_permutations=500)  # fmt: skip
    shared = found.tables["agreement"].set_index("names")["shared"]
    ours, rival = shared.index
    return [row("communication", "significant interactions shared with those of the true types",
                f"{shared[ours]:.0%}", f"{shared[rival]:.0%} (15 nearest on components, 5 folds)")]  # fmt: skip


TASKS: dict[str, Callable[[Bench], list[Row]]] = {
    "perturb": perturb, "genes": genes, "network": network, "explain": explain, "communication": communication,
}  # fmt: skip


def row(analysis: str, measure: str, ours: str, without: str) -> Row:
    """A line of the table."""
    return {"analysis": f"`{analysis}`", "measure": measure, "model": ours, "without it": without}


def span(scores: pd.Series) -> str:
    """AUROC with its interval."""
    return f"{scores['auroc']:.3f} [{scores['auroc_low']:.3f}, {scores['auroc_high']:.3f}]"


def gain(scores: pd.Series, of: str = "auroc") -> str:
    """A gain with its interval."""
    name = f"{of}_gain" if of else "gain"
    return f"{scores[name]:+.3f} [{scores[f'{name}_low']:+.3f}, {scores[f'{name}_high']:+.3f}]"


def gained(one: pd.Series) -> tuple[str, str]:
    """The gain of edges over expression, on regulators that did not choose the score."""
    return f"{one['gain']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]", f"{int(one['regulators'])} regulators"


def hardware() -> str:
    """What the figures were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), no GPU, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {datetime.datetime.now(datetime.UTC).date()}"
    )


def main() -> None:
    """Run what is asked for and is not there yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init_from", default="scfm://small")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", type=Path, default=Path("../shared/reference/genes_sets"))
    parser.add_argument("--output", type=Path, default=Path("outputs/analyses"))
    parser.add_argument("--task", choices=list(TASKS), nargs="*", default=list(TASKS))
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(load(asked.init_from), asked.init_from, asked.data, asked.sets, asked.output)
    path = asked.output / "rows.json"
    done: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    for name in asked.task:
        if name not in done:
            began, spent = time.perf_counter(), time.process_time()
            rows = TASKS[name](bench)
            cpu = time.process_time() - spent
            done[name] = {"rows": rows, "cpu_seconds": cpu, "seconds": time.perf_counter() - began}
            write_text(path, json.dumps(done, indent=1))
    lines = pd.DataFrame([line for name in asked.task for line in done[name]["rows"]])
    print("|" + "|".join(lines.columns) + "|\n|" + "---|" * len(lines.columns))
    for line in lines.to_numpy():
        print("| " + " | ".join(line) + " |")
    spent = ", ".join(f"{name} {done[name]['cpu_seconds']:.0f}" for name in asked.task)
    print(f"\nCPU seconds: {spent}. {asked.init_from}; {hardware()}.")


if __name__ == "__main__":
    main()
