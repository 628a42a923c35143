"""Edges between genes by all scores: the table, how they recover a reference, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import false_discovery_control, spearmanr

from scfm.analysis.edges.reference import KnownEdges
from scfm.analysis.result import Result
from scfm.genes.table import symbol_of
from scfm.metrics.network.recovery import Gain, Reference, held_out_gain, recovery
from scfm.plot.gene_graph import gene_circle
from scfm.plot.matrices import heat_map
from scfm.plot.scores import score_bars

#: Edges of the picture, genes of the heat map, and the false discovery rate up to which edges are counted.
DRAWN, GENES, FDR = 40, 40, 0.05
#: Regulators of the reference that can be judged, at least.
REGULATORS = 4
CAUTION = (
    "An edge says that the model, or expression, connects two genes in these cells. Attention follows rank, "
    "frequency and co-expression; none of the scores shows that one gene regulates the other."
)


@dataclass
class Edges:
    """Scores (G, G), source × target, of the same genes by name.

    Attributes:
        genes: (G,) token ids, ascending.
        tokens: their names in the vocabulary.
        ours: scores of the model, NaN where there is none.
        rivals: scores of expression.
        controls: scores of a model with random weights.
        tests: z and p of scores under permuted labels.
        cells: cells that a mean is of.
    """

    genes: np.ndarray
    tokens: tuple[str, ...]
    ours: dict[str, np.ndarray] = field(default_factory=dict)
    rivals: dict[str, np.ndarray] = field(default_factory=dict)
    controls: dict[str, np.ndarray] = field(default_factory=dict)
    tests: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    cells: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def symbols(self) -> list[str]:
        """Symbols where the table of genes knows them, else the tokens."""
        return [symbol_of(token) or token for token in self.tokens]

    def table(self, truth: np.ndarray | None) -> pd.DataFrame:
        """One row for each ordered pair of genes; the strongest first by the first score of the model."""
        source, target = np.nonzero(~np.eye(len(self.genes), dtype=bool))
        names, tokens = np.array(self.symbols, dtype=object), np.array(self.tokens, dtype=object)
        columns: dict[str, Any] = {"source": names[source], "target": names[target]}
        columns |= {"source_token": tokens[source], "target_token": tokens[target]}
        for name, scores in (self.ours | self.rivals | self.controls).items():
            columns[name] = scores[source, target]
        for name, (z, p) in self.tests.items():
            own = p[source, target]
            fdr = np.full(len(own), np.nan)
            if np.isfinite(own).any():
                fdr[np.isfinite(own)] = false_discovery_control(own[np.isfinite(own)])
            columns |= {f"{name}_z": z[source, target], f"{name}_p": own, f"{name}_fdr": fdr}
        for name, count in self.cells.items():
            columns[f"{name}_cells"] = count[source, target]
        if truth is not None:
            columns["known"] = truth[source, target]
        table = pd.DataFrame(columns)
        return table.sort_values(self.leading(table), ascending=False, kind="stable", ignore_index=True)

    def leading(self, table: pd.DataFrame) -> str:
        """The column that orders edges: z of the first tested score, else the first score."""
        return next((f"{name}_z" for name in self.ours if f"{name}_z" in table), next(iter(self.ours)))


def make_result(edges: Edges, known: KnownEdges | None, about: Mapping[str, Any], *, seed: int, mixed: bool) -> Result:
    """The report of a network.

    Args:
        edges: of all scores.
        known: the reference; None judges nothing.
        about: plain values for the page.
        seed: of halves and resamples.
        mixed: whether cells of several types may be among them.

    Raises:
        ValueError: no edge of the reference, or too few of its regulators, are among the genes.
    """
    truth = None if known is None else known.matrix(edges.genes)
    table = edges.table(truth)
    tables, summary = {"edges": table}, []
    figures = _draw_edges(edges, table)
    if truth is not None:
        reference, rows = judge(truth)
        gain = held_out_gain(_part(edges.ours, rows), _part(edges.rivals, rows), reference, seed=seed)
        tables["recovery"] = compare(edges, reference, rows)
        sides = {"model": 0, "expression": 1}
        chosen = {side: "+".join(sorted({pair[i] for pair in gain.chosen})) for side, i in sides.items()}
        measured = {"gain": gain.gain, "low": gain.low, "high": gain.high, "regulators": gain.n_regulators, **chosen}
        tables["gain"] = pd.DataFrame([measured])
        summary += gain_sentences(gain, tables["recovery"])
        bars = score_bars(_scaled(tables["recovery"]), highlight=gain.chosen[0][0])
        figures["recovery"] = (bars, "AUPRC and early precision over those of a random order, scaled to the best (1).")
    summary += _agreement_sentences(edges, table)
    notes = [CAUTION]
    if mixed:
        notes.append(
            "The cells may be of several types: edges then join markers of one type. Choose one type by label and "
            "group."
        )
    error = about.get("completeness error")
    if error is not None and np.isfinite(error):
        notes.append(f"Integrated gradients add up with a mean error of {error:.1%}.")
    few = ["source", "target", *[c for c in table if c not in ("source", "target") and "_token" not in c]][:14]
    return Result(
        title="Edges between genes",
        summary=summary,
        notes=notes,
        tables=tables,
        large=frozenset({"edges"}),
        shown={**({"recovery": list(tables["recovery"])} if "recovery" in tables else {}), "edges": few},
        figures=figures,
        coverage={
            **about,
            "genes": len(edges.genes),
            "known edges among them": 0 if truth is None else int(truth.sum()),
        },
    )


def judge(truth: np.ndarray) -> tuple[Reference, np.ndarray]:
    """Known edges as a reference: regulators with a target among the genes, and genes that any of them regulates.

    Args:
        truth: (G, G) bool.

    Returns:
        The reference, and the rows of the regulators.

    Raises:
        ValueError: too few regulators.
    """
    rows = np.flatnonzero(truth.any(axis=1))
    if len(rows) < REGULATORS:
        raise ValueError(
            f"{len(rows)} regulators of the reference have a target among the genes of the network, at least "
            f"{REGULATORS} "
            "are needed to choose by some and judge by others; take more genes (analysis.n_genes=...) or cells"
        )
    candidates = np.broadcast_to(truth.any(axis=0), (len(rows), len(truth))).copy()
    candidates[np.arange(len(rows)), rows] = False
    return Reference(truth[rows], candidates), rows


def compare(edges: Edges, reference: Reference, rows: np.ndarray) -> pd.DataFrame:
    """Figures of every score on all regulators; ``scored`` is the share of candidates it knows, others rank last."""
    lines = []
    for kind, scores in (("model", edges.ours), ("expression", edges.rivals), ("random weights", edges.controls)):
        for name, values in scores.items():
            scored = np.isfinite(values[rows])[reference.candidates].mean()
            lines.append({"score": name, "of": kind, "scored": scored, **recovery(values[rows], reference)})
    columns = ["score", "of", "scored", "auprc_ratio", "early_ratio", "auprc", "early_precision"]
    return pd.DataFrame(lines)[columns].sort_values("auprc_ratio", ascending=False, ignore_index=True)


def gain_sentences(gain: Gain, table: pd.DataFrame) -> list[str]:
    """What the model adds to expression alone; the simple method first where it wins."""
    ours, rivals = (", ".join(sorted({pair[side] for pair in gain.chosen})).replace("_", " ") for side in (0, 1))
    figures = f"{gain.gain:+.2f} (95 % {gain.low:+.2f} to {gain.high:+.2f}, {gain.n_regulators} regulators)"
    if gain.low > 0:
        first = f"The model's edges ({ours}) recover the reference better than expression alone ({rivals})"
    elif gain.high < 0:
        first = f"Expression alone ({rivals}) recovers the reference better than the model's edges ({ours})"
    else:
        first = (
            f"The model's edges ({ours}) recover the reference no better and no worse than expression alone ({rivals})"
        )
    best = table.groupby("of")["auprc_ratio"].max()
    levels = ", ".join(f"{kind} {value:.2f}" for kind, value in best.items())
    return [
        f"{first}: difference of the AUPRC ratios {figures}, each side chosen on other regulators than those judged.",
        f"Best AUPRC ratios on all regulators, 1 being a random order: {levels}.",
    ]


def _agreement_sentences(edges: Edges, table: pd.DataFrame) -> list[str]:
    sentences = []
    name = next(iter(edges.ours))
    both = table[[name, "pearson"]].dropna()
    if len(both) > 2:
        rho = float(spearmanr(both[name], both["pearson"]).statistic)
        sentences.append(
            f"Edges by {name.replace('_', ' ')} rank like |Pearson correlation| with a Spearman of {rho:.2f}."
        )
    for tested in edges.tests:
        n = int((table[f"{tested}_fdr"] <= FDR).sum())
        pairs = int(table[f"{tested}_p"].notna().sum())
        sentences.append(
            f"{n:,} of {pairs:,} edges by {tested.replace('_', ' ')} are above permuted gene labels (false discovery "
            f"rate {FDR:g})."
        )
    return sentences


def _part(scores: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in scores.items()}


def _scaled(table: pd.DataFrame) -> pd.DataFrame:
    ratios = table.set_index("score")[["auprc_ratio", "early_ratio"]]
    return ratios / ratios.max().replace(0, 1)


def _draw_edges(edges: Edges, table: pd.DataFrame) -> dict[str, tuple[Figure, str]]:
    column = edges.leading(table)
    top = table.dropna(subset=[column]).head(DRAWN)
    shown = column.replace("_", " ")
    pictures = {}
    if len(top):
        circle = gene_circle(top.rename(columns={column: "weight"})[["source", "target", "weight"]])
        pictures["network"] = (circle, f"The {len(top)} strongest edges by {shown}.")
    name = next(iter(edges.ours))
    values = edges.ours[name].copy()
    np.fill_diagonal(values, np.nan)
    strength = np.nan_to_num(values).sum(axis=0) + np.nan_to_num(values).sum(axis=1)
    chosen = np.sort(np.argsort(-strength)[:GENES])
    names = [edges.symbols[i] for i in chosen]
    heat = pd.DataFrame(values[np.ix_(chosen, chosen)], index=names, columns=names)
    picture = heat_map(heat, label=name.replace("_", " "), rows="source", columns="target")
    pictures["heat_map"] = (
        picture,
        f"Edges by {name.replace('_', ' ')} between the {len(chosen)} genes with most of it.",
    )
    return pictures
