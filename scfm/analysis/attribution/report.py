"""What :mod:`scfm.analysis.explain` gathers over cells, and what its report says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.sparse import csr_matrix

from scfm.analysis.result import Result
from scfm.genes.table import symbol_of
from scfm.metrics.markers import ndcg_at, precision_at, rank_sum
from scfm.plot.attribution import deletion_curves
from scfm.plot.matrices import heat_map

if TYPE_CHECKING:
    from torch import Tensor

    from scfm.analysis.attribution.gradients import Attribution
    from scfm.analysis.attribution.label_score import Labeler
    from scfm.analysis.cells import Cells
    from scfm.analysis.labels import Groups
    from scfm.batch import Batch
    from scfm.vocab import Vocab

#: Scores of the model, and those of expression alone that stand beside them.
OURS, RIVALS = ("integrated_gradients", "rollout"), ("wilcoxon", "rank")
#: How a sentence begins that says that a simple method does better.
SIMPLE = "A simple"
#: Genes of a group that are its markers, and resamples of an interval.
MARKERS, DRAWS = 50, 1000
CAUTION = (
    "An attribution says what the label of this model rests on, not what makes the cell what it is. Genes that are "
    "expressed together share the credit as the model happens to divide it. The deletion test asks the model that gave "
    "the gradients, which favors them over markers of a whole group."
)


class Explained:
    """Attributions and deletion falls of the cells that are explained.

    Args:
        n_sizes: sizes of the deletion test.
    """

    def __init__(self, n_sizes: int) -> None:
        self.n_sizes = n_sizes
        self.tokens: list[pd.DataFrame] = []
        self.cells: list[pd.DataFrame] = []
        self.drops: dict[str, list[np.ndarray]] = {}

    def add(
        self,
        batch: Batch,
        gene: Tensor,
        called: Tensor,
        group: Tensor,
        gradients: Attribution,
        weights: Mapping[str, Tensor],
        drops: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Add a batch: weights (T,) of its tokens by score, falls (B, K) of chosen and random genes by score."""
        index, cell = batch.index.cpu().numpy(), batch.token_cell.cpu().numpy()
        frame = pd.DataFrame(
            {"row": index[cell], "group": group.cpu().numpy()[cell], "token": batch.ids.cpu().numpy()}
            | {"rank": batch.positions.cpu().numpy()}
            | {name: weights[name].float().cpu().numpy() for name in OURS}
        )
        self.tokens.append(frame[gene.cpu().numpy()])
        columns = {"group": group, "called": called, "error": gradients.error, "difference": gradients.difference}
        self.cells.append(pd.DataFrame({"row": index} | {name: own.cpu().numpy() for name, own in columns.items()}))
        for name, pair in drops.items():
            self.drops.setdefault(name, []).append(np.stack(pair))

    @property
    def token_table(self) -> pd.DataFrame:
        """``row, group, token, rank`` and the scores of every gene of every cell."""
        return pd.concat(self.tokens, ignore_index=True)

    @property
    def cell_table(self) -> pd.DataFrame:
        """``row, group, called, error, difference`` of every cell."""
        return pd.concat(self.cells, ignore_index=True)

    def falls(self, name: str) -> np.ndarray:
        """(2, B, K) falls of the chosen and of the random genes."""
        return np.concatenate(self.drops[name], axis=1)


def gain_of_deletion(found: Explained, sizes: Sequence[int], seed: int) -> pd.DataFrame:
    """Mean falls of the log odds, and the excess over random genes with its interval over cells.

    Returns:
        ``score, genes, fall, random, excess, low, high, cells``.
    """
    rng, rows = np.random.default_rng(seed), []
    for name in found.drops:
        chosen, control = found.falls(name)
        for column, size in enumerate(sizes):
            known = np.isfinite(chosen[:, column])
            one, other = chosen[known, column], control[known, column]
            if not len(one):
                continue
            excess = one - other
            means = rng.choice(excess, (DRAWS, len(excess))).mean(axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            rows.append((name, size, one.mean(), other.mean(), excess.mean(), low, high, int(known.sum())))
    return pd.DataFrame(rows, columns=["score", "genes", "fall", "random", "excess", "low", "high", "cells"])


def marker_scores(found: Explained, n_groups: int, n_tokens: int) -> dict[str, np.ndarray]:
    """Mean weight of each gene in a group's cells minus that in all others, (C, V) by score; absent genes are 0."""
    table, cells = found.token_table, found.cell_table
    sizes = np.bincount(cells["group"], minlength=n_groups).astype(np.float64)
    scores = {}
    for name in OURS:
        sums = csr_matrix((table[name], (table["group"], table["token"])), shape=(n_groups, n_tokens)).toarray()
        rest = (sums.sum(axis=0) - sums) / np.maximum(sizes.sum() - sizes, 1)[:, None]
        scores[name] = sums / np.maximum(sizes, 1)[:, None] - rest
    return scores


def compare_markers(
    found: Explained, explained: Cells, held: Cells, codes: pd.Series, names: Sequence[str], vocab: Vocab
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """Markers by attribution beside those of expression in the same cells, against Wilcoxon markers of the other half.

    Returns:
        ``score, precision_at_10, precision_at_50, ndcg_at_50`` (means over groups); a row for each of the first genes
        of a group; and the scores (C, V).
    """
    own, other = (codes[part.rows].to_numpy() for part in (explained, held))
    scores = marker_scores(found, len(names), len(vocab))
    values = explained.log_normalized()
    truth = rank_sum(held.log_normalized(), other, len(names))
    scores["wilcoxon"] = rank_sum(values, own, len(names))
    mean = np.stack([np.asarray(values[own == group].mean(axis=0)).ravel() for group in range(len(names))])
    scores["mean_expression"] = mean
    genes = vocab.gene_ids
    judged = [g for g in range(len(names)) if np.isfinite(truth[g, genes]).all() and (own == g).any()]
    rows = []
    for name, table in scores.items():
        pairs = [(table[g, genes], truth[g, genes]) for g in judged]
        row = [np.mean([precision_at(*pair, k) for pair in pairs]) for k in (10, MARKERS)]
        rows.append((name, *row, np.mean([ndcg_at(*pair, MARKERS) for pair in pairs])))
    compared = pd.DataFrame(rows, columns=["score", "precision_at_10", "precision_at_50", "ndcg_at_50"])
    return compared, _first_genes(scores, truth, names, vocab), scores


def make_result(
    found: Explained,
    markers: tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]],
    deletion: pd.DataFrame,
    labeler: Labeler,
    groups: Groups,
    source: str,
    vocab: Vocab,
) -> Result:
    """The report: what the label rests on, and whether expression alone would say the same."""
    compared, genes, scores = markers
    cells, tokens = found.cell_table, found.token_table
    error = float(cells["error"].abs().mean() / max(cells["difference"].abs().mean(), 1e-12))
    tokens.insert(1, "gene", np.array(vocab.tokens, dtype=object)[tokens["token"]])
    tokens["group"] = np.array(groups.names, dtype=object)[tokens["group"]]
    said = [deletion_sentences(deletion), marker_sentences(compared)]
    summary = [sentence for part in sorted(said, key=lambda part: not part[0].startswith(SIMPLE)) for sentence in part]
    notes = [CAUTION, f"Integrated gradients add up to the change of the log odds with a mean error of {error:.1%}."]
    if error > 0.1:
        notes.append("An error above 10 % asks for more steps (analysis.n_steps=...).")
    return Result(
        title=f"Why cells are called {labeler.label}",
        summary=summary,
        notes=notes,
        tables={
            "deletion": deletion,
            "agreement": compared,
            "markers": genes,
            "attributions": tokens.drop(columns="token"),
        },
        large=frozenset({"attributions"}),
        shown={"deletion": list(deletion), "agreement": list(compared), "markers": list(genes)},
        figures=_draw(deletion, scores["integrated_gradients"], genes, groups.names, vocab),
        coverage={
            "labels": source,
            "classes": len(labeler.names),
            "groups": len(groups.names),
            "cells explained": len(cells),
            "completeness error": round(error, 4),
            **{f"cells {reason}": n for reason, n in groups.dropped.items()},
        },
    )


def _first_genes(
    scores: Mapping[str, np.ndarray], truth: np.ndarray, names: Sequence[str], vocab: Vocab
) -> pd.DataFrame:
    """The first genes of each group by integrated gradients, with their other scores."""
    rows = []
    for group, name in enumerate(names):
        genes = vocab.gene_ids[
            np.argsort(-scores["integrated_gradients"][group, vocab.gene_ids], kind="stable")[:MARKERS]
        ]
        for gene in genes:
            token = vocab.tokens[gene]
            own = {score: table[group, gene] for score, table in scores.items()}
            rows.append(
                {
                    "group": name,
                    "gene": token,
                    "symbol": symbol_of(token) or token,
                    **own,
                    "held_out_z": truth[group, gene],
                }
            )
    return pd.DataFrame(rows)


def deletion_sentences(deletion: pd.DataFrame) -> list[str]:
    """What the deletion test says, a simple choice of genes first where it does better."""
    if deletion.empty:
        return ["No cell has enough genes for the deletion test."]
    sizes = sorted(deletion["genes"].unique())
    size = int(sizes[len(sizes) // 2])
    part = deletion[deletion["genes"] == size].set_index("score")
    best = max(OURS, key=lambda name: part.loc[name, "excess"])
    rival = max(RIVALS, key=lambda name: part.loc[name, "excess"])
    words = {"integrated_gradients": "integrated gradients", "wilcoxon": "Wilcoxon markers of the other half"}
    words |= {"rollout": "attention rollout", "rank": "rank in the cell"}
    ours, other = part.loc[best], part.loc[rival]
    fall = (
        f"Taking out the {size} genes that {words[best]} name lowers the log odds of the label by "
        f"{ours['fall']:.2f}, random genes of the same ranks by {ours['random']:.2f} (excess {ours['excess']:.2f}, "
        f"95 % {ours['low']:.2f} to {ours['high']:.2f})."
    )
    beside = f"With the {size} genes by {words[rival]} the excess is {other['excess']:.2f}."
    if other["excess"] >= ours["excess"]:
        return [f"{SIMPLE} choice of genes matters more to the label than the model's attributions. {beside}", fall]
    return [fall, beside]


def marker_sentences(compared: pd.DataFrame) -> list[str]:
    """How many markers the model's attributions find; that Wilcoxon finds more, where it does, at the beginning."""
    table = compared.set_index("score")["precision_at_50"]
    best = max(OURS, key=lambda name: table[name])
    found = (
        f"Of the 50 Wilcoxon markers of held-out cells, the first 50 genes by {best.replace('_', ' ')} hold "
        f"{table[best]:.0%}, by Wilcoxon on the explained cells {table['wilcoxon']:.0%}."
    )
    return [
        found if table[best] > table["wilcoxon"] else f"{SIMPLE} test finds more markers than attributions do. {found}"
    ]


def _draw(
    deletion: pd.DataFrame, scores: np.ndarray, genes: pd.DataFrame, names: Sequence[str], vocab: Vocab
) -> dict[str, tuple[Figure, str]]:
    few = genes.groupby("group", sort=False).head(max(2, 36 // len(names)))["gene"].unique()
    table = pd.DataFrame(scores[:, [vocab.ids[gene] for gene in few]].T, columns=list(names))
    table.index = [symbol_of(gene) or gene for gene in few]
    return {
        "deletion": (
            deletion_curves(deletion),
            "Fall of the log odds; the band is the 95 % interval of the excess over random.",
        ),
        "genes": (
            heat_map(table, diverging=True, label="integrated gradients, group minus others"),
            "Genes that the labels rest on, the first of each group.",
        ),
    }
