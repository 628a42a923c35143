"""Tables of a perturbation: one row a cell and gene, one row a gene, with its baselines; the published columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from scfm.analysis.cells import Cells
from scfm.analysis.perturbation.design import Design, name_set
from scfm.metrics.perturbation import (
    benjamini_hochberg,
    impact_component,
    matched_z,
    permutation_p,
    residuals,
    unit_means,
    unit_test,
)
from scfm.vocab import Vocab

#: Perturbations that the published test draws its pool from, at most, and its seed.
POOLED, POOL_SEED = 100_000, 42


def join_parts(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parts one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cell_table(rows: Mapping[str, np.ndarray], design: Design, vocab: Vocab) -> pd.DataFrame:
    """One row for each perturbation of a cell, controls included.

    Columns ``cell, row`` (of the file), ``donor, gene, symbol, control, rank, n, dropped, cosine, shift``; ``shift`` is
    1 - cosine without a goal, else the change of the cosine towards it, and ``shift_start``, ``shift_alt_NAME`` and
    ``projection`` lie beside it.
    """
    names = np.array([name_set(genes, vocab) for genes in design.sets], dtype=object).reshape(-1, 2)
    cell, number = rows["cell"], rows["set"]
    table = pd.DataFrame(
        {
            "cell": design.cells.obs.index.to_numpy()[cell],
            "row": design.cells.rows[cell],
            "donor": np.array(design.donor_names or ("",), dtype=object)[design.donors[cell]],
            "gene": names[number, 0],
            "symbol": names[number, 1],
            "control": design.control[number],
            **{name: rows[name] for name in ("rank", "n", "dropped", "cosine")},
        }
    )
    if not design.has_goal:
        return table.assign(shift=1 - table["cosine"])
    table["shift"], table["shift_start"] = rows["shifts"][:, 1], rows["shifts"][:, 0]
    for i, name in enumerate(design.states[2:], start=2):
        table[f"shift_alt_{name}"] = rows["shifts"][:, i]
    return table.assign(projection=rows["projection"])


def gene_table(
    cells: pd.DataFrame,
    design: Design,
    vocab: Vocab,
    labels: Mapping[str, np.ndarray] | None,
    min_cells: int,
    n_tests: int = 0,
) -> pd.DataFrame:
    """One row a gene (or group of genes), sorted by shift; controls last.

    Args:
        cells: of :func:`cell_table`.
        design: cells and perturbations.
        vocab: the tokens.
        labels: sums over permuted labels of the parts; None without a goal.
        min_cells: cells that a gene must have been changed in for a p value.
        n_tests: tests that the false discovery rates are of, where genes were chosen among more; those left out count
            as p = 1.
    """
    reference = cells["control"].to_numpy() if design.control.any() else None
    cells = cells.assign(residual=residuals(cells.assign(cell=cells["row"]), reference=reference))
    donors = bool(design.donor_names)
    means = [name for name in cells if name.startswith("shift") or name in ("residual", "cosine", "projection")]
    units = unit_means(cells, means, donors=donors)
    by = units.groupby("gene", sort=True)
    table = by[means].mean()
    table["shift_se"] = by["shift"].std() / np.sqrt(by.size())
    error = (by["residual"].std() / np.sqrt(by.size())).to_numpy()
    table["null_mean"] = table["shift"] - table["residual"]
    own = cells.groupby("gene", sort=True)
    table["n_cells"], table["mean_rank"] = own.size(), own["rank"].mean()
    table["n_donors"] = own["donor"].nunique() if donors else 0
    table["control"], table["symbol"] = own["control"].first(), own["symbol"].first()
    tested = (table["n_cells"] >= min_cells).to_numpy()
    null = tested & (table["control"].to_numpy() if design.control.any() else True)
    table["z"] = np.where(tested, matched_z(table["residual"].to_numpy(), error, null), np.nan)
    table["p"] = 2 * stats.norm.sf(np.abs(table["z"]))
    table["p_units"] = np.where(tested, by["residual"].apply(lambda v: unit_test(v.to_numpy(), donors=donors)), np.nan)
    if labels is not None:
        table["p_label"] = np.where(tested, _label_p(table, design, vocab, labels), np.nan)
    real = ~table["control"].to_numpy()
    for name in [name for name in ("p", "p_units", "p_label") if name in table]:
        fdr = np.full(len(table), np.nan)
        p = table[name].to_numpy()[real]
        left_out = np.ones(max(n_tests - len(p), 0))
        fdr[real] = benjamini_hochberg(np.concatenate([p, left_out]))[: len(p)]
        table[name.replace("p", "fdr", 1)] = fdr
    return table.reset_index().sort_values(["control", "shift"], ascending=[True, False], ignore_index=True)


def _label_p(table: pd.DataFrame, design: Design, vocab: Vocab, labels: Mapping[str, np.ndarray]) -> np.ndarray:
    """P of the mean shift (over donors) among those towards the goals of permuted labels."""
    sums = pd.DataFrame(labels["label_sum"]).groupby([labels["label_set"], labels["label_donor"]]).sum()
    count = pd.Series(labels["label_n"], dtype=float).groupby([labels["label_set"], labels["label_donor"]]).sum()
    null = sums.div(count, axis=0).groupby(level=0).mean()
    genes = [name_set(design.sets[number], vocab)[0] for number in null.index]
    null.index = pd.Index(genes)
    return permutation_p(table["shift"].to_numpy(), null.groupby(level=0).first().loc[table.index].to_numpy())


def expression_baselines(cells: Cells, state: np.ndarray, tokens: np.ndarray) -> pd.DataFrame:
    """What start and goal cells say without a model: log2 fold change (goal over start) and Wilcoxon rank sum.

    Args:
        cells: with their states.
        state: (n,) 0 start, 1 goal.
        tokens: (genes,) to be compared.

    Returns:
        Columns ``logfc`` (of mean log-normalized values), ``wilcoxon_p``, ``logfc_fdr``, in the order of ``tokens``.
    """
    values = cells.log_normalized()[:, tokens].tocsc()
    start, goal = state == 0, state == 1
    logfc, p = np.zeros(len(tokens)), np.ones(len(tokens))
    for low in range(0, len(tokens), 500):
        block = values[:, low : low + 500].toarray()
        one, other = block[start], block[goal]
        logfc[low : low + 500] = (other.mean(axis=0) - one.mean(axis=0)) / np.log(2)
        found = stats.mannwhitneyu(other, one, axis=0, method="asymptotic").pvalue
        p[low : low + 500] = np.where(np.isfinite(found), found, 1.0)
    return pd.DataFrame({"logfc": logfc, "wilcoxon_p": p, "logfc_fdr": benjamini_hochberg(p)})


def pair_table(cells: pd.DataFrame, design: Design, vocab: Vocab) -> pd.DataFrame:
    """Two genes together, in the cells that have both: the pair's shift beside the sum of the two."""
    asked = [genes for genes, control in zip(design.sets, design.control, strict=True) if not control]
    pairs = [genes for genes in asked if len(genes) == 2]
    shift = cells.pivot_table(index="row", columns="gene", values="shift", aggfunc="first")
    rows = []
    for first, second in pairs:
        anchor, (name, symbol) = name_set((first,), vocab)[0], name_set((second,), vocab)
        both = name_set((first, second), vocab)[0]
        if both not in shift or name not in shift:
            continue
        three = shift[[anchor, name, both]].dropna()
        one, other, pair = three.mean()
        rows.append((anchor, name, symbol, len(three), one, other, pair, pair - one - other))
    columns = ["anchor", "gene", "symbol", "n_cells", "anchor_shift", "gene_shift", "pair_shift", "interaction"]
    return pd.DataFrame(rows, columns=columns).sort_values("interaction", key=abs, ascending=False, ignore_index=True)


def effect_table(rows: Mapping[str, np.ndarray], design: Design, vocab: Vocab) -> pd.DataFrame:
    """What perturbing one gene does to the states of others: mean, sd and number of cells."""
    frame = pd.DataFrame({"set": rows["effect_set"], "gene": rows["effect_gene"], "n": rows["effect_n"]})
    frame["sum"], frame["square"] = rows["effect_sum"][:, 0], rows["effect_sum"][:, 1]
    frame = frame.groupby(["set", "gene"]).sum().reset_index()
    mean = frame["sum"] / frame["n"]
    spread = (frame["square"] - frame["n"] * mean**2).clip(lower=0) / (frame["n"] - 1).where(frame["n"] > 1)
    names = np.array([name_set(genes, vocab)[0] for genes in design.sets], dtype=object)
    affected = frame["gene"].to_numpy()
    return pd.DataFrame(
        {
            "perturbed": names[frame["set"]],
            "affected": [vocab.tokens[gene] for gene in affected],
            "affected_symbol": [name_set((int(gene),), vocab)[1] for gene in affected],
            "mean": mean,
            "sd": np.sqrt(spread),
            "n_cells": frame["n"],
        }
    ).sort_values("mean", ascending=False, ignore_index=True)


def upstream_table(cells: pd.DataFrame, design: Design, vocab: Vocab, *, all_genes: bool) -> pd.DataFrame:
    """The columns that the published perturber writes, with its own test.

    ``Goal_end_vs_random_pval`` compares a gene's cells with all perturbations pooled, cells as independent: nearly
    every gene of a large run is significant.
    """
    real = cells[~cells["control"]]
    ids = {name_set(genes, vocab)[0]: "+".join(map(str, genes)) for genes in design.sets}
    by = real.groupby("gene", sort=True)
    table = pd.DataFrame({"Gene": [ids[gene] for gene in by.groups], "Gene_name": by["symbol"].first().to_numpy()})
    table["Ensembl_ID"], table["N_Detections"] = list(by.groups), by.size().to_numpy()
    if not design.has_goal:
        table["Cosine_sim"] = by["cosine"].mean().to_numpy()
        table["Test_avg_shift"] = by["shift"].mean().to_numpy()
        if all_genes and len(table) > 2:
            table["Impact_component"] = impact_component(table["Test_avg_shift"].to_numpy(), "high").astype(int)
            share = 100 * table["Impact_component"].mean()
            table["Impact_component_percent"] = share
        return table.sort_values("Cosine_sim", ignore_index=True)
    table["Shift_to_goal_end"] = by["shift"].mean().to_numpy()
    ends = {"Goal_end": "shift", **{f"Alt_end_{name}": f"shift_alt_{name}" for name in design.states[2:]}}
    for end, column in ends.items():
        if end != "Goal_end":
            table[f"Shift_to_{end[0].lower()}{end[1:]}"] = by[column].mean().to_numpy()
        if all_genes:
            pool = real[column].sample(min(POOLED, len(real)), random_state=POOL_SEED).to_numpy()
            p = np.array([stats.ranksums(values, pool).pvalue for _, values in by[column]])
            table[f"{end}_vs_random_pval"], table[f"{end}_FDR"] = p, benjamini_hochberg(p)
    if not all_genes:
        return table
    table.insert(4, "Sig", (table["Goal_end_FDR"] < 0.05).astype(int))
    return table.sort_values(["Sig", "Shift_to_goal_end"], ascending=False, ignore_index=True)
