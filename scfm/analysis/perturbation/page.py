"""What the report of a perturbation says and shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from scfm.analysis.perturbation.design import Design
from scfm.analysis.perturbation.stimulated import addition_sentence, judge_addition
from scfm.analysis.result import Result
from scfm.metrics.perturbation import auroc, average_precision, bootstrap_interval
from scfm.plot.genes import compare_effects, gene_heat_map, ranked_effects, volcano

SHOWN = (
    "symbol", "n_cells", "n_donors", "mean_rank", "shift", "shift_se", "null_mean", "z", "p", "fdr", "p_label",
    "shift_random", "logfc", "logfc_fdr",
)  # fmt: skip
MODEL = ("shift", "residual", "z")


def make_result(
    tables: dict[str, pd.DataFrame],
    design: Design,
    *,
    groups: np.ndarray | None,
    truth: set[str] | None,
    coverage: Mapping[str, Any],
    op: str,
    measured: str | None = None,
    seed: int = 0,
) -> Result:
    """The result with its sentences and figures.

    Args:
        tables: ``genes``, ``cells`` and what else was asked for.
        design: cells and perturbations.
        groups: (N,) group of each row of the file, for a heat map.
        truth: tokens of the genes that should come first.
        coverage: what was read.
        op: the operation.
        measured: where the truth was measured; None where it is a list of the user's, or none is given.
        seed: of folds and resamples.
    """
    genes = tables["genes"]
    genes = genes[~genes["control"]].reset_index(drop=True)
    baselines = compare_scores(genes, truth)
    tables["baselines"] = baselines
    goal = f" towards {design.states[1]}" if design.has_goal else ""
    called = genes["fdr"] < 0.05
    first = _verdict(baselines, truth)
    if measured is not None:
        judged = genes[genes["p"].notna()].reset_index(drop=True)
        positive = judged["gene"].isin(truth or ()).to_numpy()
        tables["added"] = judge_addition(judged, positive, seed)
        first = [addition_sentence(tables["added"], baselines, int(positive.sum()), measured), *first]
    summary = [
        *first,
        f"{int(called.sum()):,} of {int(genes['p'].notna().sum()):,} tested genes shift cells{goal} otherwise than "
        f"genes of like rank do (FDR < 0.05), by op={op} in {len(design.changed):,} cells.",
    ]
    shown: dict[str, Sequence[str]] = {"genes": SHOWN}
    shown |= {name: list(tables[name]) for name in ("added", "baselines", "pairs") if name in tables}
    return Result(
        f"Perturbation: {op}{goal}", summary, tables, _notes(design),
        large=frozenset({"cells", "affected"}),
        shown=shown, figures=_figures(genes, tables["cells"], design, groups), coverage=coverage,
    )  # fmt: skip


def compare_scores(genes: pd.DataFrame, truth: set[str] | None) -> pd.DataFrame:
    """Every score of the genes: rank correlation with the model's shift, and with a truth its AUROC.

    Genes are ordered by the size of shift, residual, z and fold change, since a truth names genes and no directions.
    """
    scores = {name: genes[name].abs() for name in (*MODEL, "shift_random", "logfc") if name in genes}
    if "wilcoxon_p" in genes:
        scores["wilcoxon"] = -np.log10(genes["wilcoxon_p"].clip(lower=1e-300))
    scores |= {"mean_rank": -genes["mean_rank"], "detections": genes["n_cells"]}
    positive = None if truth is None else genes["gene"].isin(truth).to_numpy()
    rows = []
    for name, values in scores.items():
        numbers = values.to_numpy(dtype=float)
        shown = np.isfinite(numbers) & np.isfinite(genes["shift"])
        varied = shown.sum() > 2 and np.ptp(numbers[shown]) > 0
        rho = stats.spearmanr(numbers[shown], genes["shift"].abs()[shown]).statistic if varied else np.nan
        row = {"score": name, "spearman_with_shift": float(rho)}
        if positive is not None:
            low, high = bootstrap_interval(numbers, positive)
            row |= {"auroc": auroc(numbers, positive), "auroc_low": low, "auroc_high": high}
            row |= {"ap": average_precision(numbers, positive), "base_rate": float(positive.mean())}
        rows.append(row)
    return pd.DataFrame(rows)


def _verdict(baselines: pd.DataFrame, truth: set[str] | None) -> list[str]:
    table = baselines.set_index("score")
    if truth is None:
        if "logfc" not in table.index:
            return []
        rho = table.loc["logfc", "spearman_with_shift"]
        return [f"The size of the fold change orders genes as the shift does with a rank correlation of {rho:.2f}."]
    others = table.drop(index=[name for name in MODEL if name in table.index])["auroc"]
    if others.isna().all():
        return ["No gene of the truth, or no other gene, was perturbed: no AUROC."]
    best, ours = str(others.idxmax()), table.loc["shift", "auroc"]
    word = "does no better than" if others[best] >= ours else "does better than"
    return [f"The model's shift {word} {best}: AUROC {ours:.3f} against {others[best]:.3f}."]


def _notes(design: Design) -> list[str]:
    notes = list(design.notes)
    if not design.donor_names:
        notes.append("No donor was named: cells are the units, and p_units is pseudo-replicated.")
    elif all(len(np.unique(design.state[design.donors == d])) < 2 for d in range(len(design.donor_names))):
        notes.append("No donor has cells of both states: state and donor cannot be told apart.")
    notes.append(
        "A shift says how the model answers to another list of genes. It is no measured effect of a knock-out, and "
        "where fold change or rank order the genes alike, the model adds nothing that they do not show."
    )
    return notes


def _figures(
    genes: pd.DataFrame, cells: pd.DataFrame, design: Design, groups: np.ndarray | None
) -> dict[str, tuple[Figure, str]]:
    names, label = (
        genes["symbol"].str.slice(0, 24).to_numpy(),
        "shift" + (f" towards {design.states[1]}" if design.has_goal else ""),
    )
    called, residual = (genes["fdr"] < 0.05).to_numpy(), genes["residual"].to_numpy()
    figures = {
        "ranked": (
            ranked_effects(names, genes["shift"].to_numpy(), genes["shift_se"].to_numpy(), label=label),
            "Genes of the largest shifts, with 95 % intervals over units.",
        ),
        "volcano": (
            volcano(residual, genes["p"].to_numpy(), names, called=called, label=f"{label}, residual"),
            "Shift less that of other genes of the same cell and rank decile, against p; colored: FDR < 0.05.",
        ),
    }  # fmt: skip
    other = "logfc" if "logfc" in genes else "mean_rank"
    if "measured_logfc" in genes:
        both = genes["measured_logfc"].fillna(0).to_numpy(), genes["shift"].to_numpy()
        axes = ("measured log2 fold change", label)
        figures["measured"] = (
            compare_effects(*both, names, labels=axes),
            "Shift against the measured change.",
        )
    pair = genes[other].to_numpy(dtype=float), genes["shift"].to_numpy()
    figures[other] = (compare_effects(*pair, names, labels=(other.replace("_", " "), label)), f"Shift against {other}.")
    if groups is not None:
        few = genes.loc[genes["shift"].abs().sort_values(ascending=False).index[:25], "gene"]
        own = cells[cells["gene"].isin(few)]
        table = own.assign(group=groups[own["row"]]).pivot_table(index="symbol", columns="group", values="shift")
        figures["groups"] = (gene_heat_map(table, label=label), "Mean shift of the 25 largest, by group of cells.")
    return figures
