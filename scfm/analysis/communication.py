"""Which cell types may talk to which: ligand-receptor scores from expression, groups from a column or a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import false_discovery_control

from scfm.analysis.base import Analysis, Work
from scfm.analysis.interactions.gene_values import GeneValues, read_values
from scfm.analysis.interactions.pair_table import Pairs, match_pairs, read_pairs
from scfm.analysis.labels import Groups, column_values, find_groups, neighbor_values, predicted_values
from scfm.analysis.result import Result
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.metrics.communication.group_means import group_means
from scfm.metrics.communication.interactions import find_interactions, rank_interactions, score_interactions
from scfm.metrics.communication.permutation import permutation_p
from scfm.plot.matrices import dot_plot, heat_map

KEYS = ["sender", "receiver", "ligand", "receptor"]
SHOWN = [*KEYS, "mean", "natmi", "log_fold", "p", "fdr", "magnitude_rank", "specificity_rank"]
CAUTION = (
    "The scores are of RNA: they show that a sender has the message of a ligand and a receiver that of its "
    "receptor, not that proteins are there, that the cells touch, or that a signal passes. Permutations ask whether "
    "the pair is specific to these types, not whether it is at work."
)
#: What names cells without a model, where names are compared.
NEIGHBORS = "nearest neighbors on principal components"
#: Interactions and group pairs of the dot plot.
DOTS, COLUMNS = 25, 20


@dataclass(frozen=True)
class Communication(Analysis):
    """Ligand-receptor scores between groups of cells.

    Attributes:
        pairs: table with the columns ``ligand`` and ``receptor``, complexes joined by ``_``. None is shipped: the
            sources of the public collections have terms of their own.
        resource: only the pairs of this name in the table's column ``resource``.
        label: obs column of the groups; None takes the names that the checkpoint's annotation head gives.
        truth: obs column of the true groups: the report says how well the interactions agree with those of ``label``.
        donor: obs column; labels are shuffled inside each donor.
        min_cells: smaller groups are left out.
        min_share: a gene counts where it is in this share of a group's cells.
        n_permutations: shuffles of the labels.
        fdr: interactions are counted up to this false discovery rate.
        seed: of the shuffles.
    """

    name: ClassVar[str] = "communication"
    needs_counts: ClassVar[bool] = True

    pairs: str | None = None
    resource: str | None = None
    label: str | None = None
    truth: str | None = None
    donor: str | None = None
    min_cells: int = 5
    min_share: float = 0.1
    n_permutations: int = 1000
    fdr: float = 0.05
    seed: int = 1337

    def __post_init__(self) -> None:
        if self.pairs is None:
            raise ValueError(
                "analysis.pairs is missing: no ligand-receptor table is shipped, because the sources of the public "
                "ones have terms of their own; give a table with the columns ligand and receptor, such as LIANA's "
                "or CellPhoneDB's"
            )
        for name, smallest in (("min_cells", 1), ("n_permutations", 1)):
            if getattr(self, name) < smallest:
                raise ValueError(f"analysis.{name}={getattr(self, name)}; expected a whole number, {smallest} or more")
        for name in ("min_share", "fdr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"analysis.{name}={getattr(self, name)}; expected a share from 0 to 1")

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """Score all pairs between all groups, and test them under shuffled labels."""
        assert self.pairs is not None
        table = read_pairs(self.pairs, self.resource)
        if self.label is None:
            values, source = predicted_values(model, cells, work), f"the head of {model.checkpoint.path}"
        else:
            values, source = column_values(cells, self.label), f"obs[{self.label!r}]"
        groups = {source: find_groups(values, self.min_cells, source)}
        if self.truth is not None:
            groups |= self._compared(cells)
        donors = None if self.donor is None else column_values(cells, self.donor)
        pairs = match_pairs(cells, table, self.pairs)
        rows = np.unique(np.concatenate([own.rows for own in groups.values()]))
        expression = read_values(cells, rows, pairs.genes, work.settings.block_size)
        found = {name: self._score(expression, own, donors, pairs, work) for name, own in groups.items()}
        return self._result(found, groups[source], donors, pairs, source)

    def _compared(self, cells: CellInput) -> dict[str, Groups]:
        """The true groups, and those that nearest neighbors on principal components give without a model."""
        assert self.truth is not None
        true = column_values(cells, self.truth)
        name = f"obs[{self.truth!r}]"
        groups = {name: find_groups(true, self.min_cells, name)}
        return groups | {NEIGHBORS: find_groups(neighbor_values(cells, true, self.seed), self.min_cells, NEIGHBORS)}

    def _score(
        self, expression: GeneValues, groups: Groups, donors: np.ndarray | None, pairs: Pairs, work: Work
    ) -> pd.DataFrame:
        """One row for each interaction, the most specific and strong first."""
        values = expression.select(groups.rows)
        blocks = None if donors is None else self._blocks(donors[groups.rows], groups)
        means = group_means(values, groups.codes, len(groups.names), expression.overall)
        found = find_interactions(means, pairs.subunits, min_share=self.min_share)
        if not len(found):
            raise ValueError(
                f"no pair has its ligand in {self.min_share:.0%} of one group and its receptor in "
                f"{self.min_share:.0%} of another; lower analysis.min_share, or give pairs of genes that these "
                "cells have"
            )
        scores = score_interactions(means, found)
        with work.bar("Shuffling labels", self.n_permutations, unit="permutation") as advance:
            scores["p"] = permutation_p(
                values, groups.codes, found, blocks=blocks, n_permutations=self.n_permutations, seed=self.seed,
                advance=advance,
            )  # fmt: skip
        scores["fdr"] = false_discovery_control(scores["p"])
        names = np.array(groups.names, dtype=object)
        keys = {"sender": names[found.sender], "receiver": names[found.receiver]}
        keys |= {name: pairs.table[name].to_numpy()[found.pair] for name in ("ligand", "receptor")}
        genes = np.array(pairs.names, dtype=object)
        keys |= {"ligand_gene": genes[found.ligand], "receptor_gene": genes[found.receptor]}
        ranks = rank_interactions(scores)
        table = pd.concat([pd.DataFrame(keys), scores, ranks], axis=1)
        return table.sort_values(["specificity_rank", "magnitude_rank"], kind="stable", ignore_index=True)

    def _blocks(self, donors: np.ndarray, groups: Groups) -> np.ndarray:
        codes, names = pd.factorize(pd.Series(donors))
        free = [len(np.unique(groups.codes[codes == donor])) > 1 for donor in range(len(names))]
        if not any(free):
            raise ValueError(
                f"every donor of obs[{self.donor!r}] has cells of one group only, so that labels cannot be shuffled "
                "inside donors; leave analysis.donor out, and read differences between groups as differences "
                "between donors"
            )
        return codes

    def _shared(self, found: Mapping[str, pd.DataFrame], source: str) -> pd.Series | None:
        """Share of the significant interactions, by some names or by the true ones, that both have."""
        if self.truth is None:
            return None
        sets = {
            name: {tuple(row) for row in table.loc[table["fdr"] <= self.fdr, KEYS].itertuples(index=False)}
            for name, table in found.items()
        }
        true = sets[f"obs[{self.truth!r}]"]
        names = [source, NEIGHBORS]
        values = [len(sets[name] & true) / max(len(sets[name] | true), 1) for name in names]
        return pd.Series(values, index=pd.Index(names, name="names"), name="shared")

    def _agreement(self, shared: pd.Series | None, source: str) -> list[str]:
        """What the shares say; the rival's first where it is the larger."""
        if shared is None:
            return []
        sentence = (
            f"Of the significant interactions by {source} or by obs[{self.truth!r}], {shared[source]:.0%} are in "
            f"both; by {NEIGHBORS} it is {shared[NEIGHBORS]:.0%}."
        )
        wins = shared[NEIGHBORS] > shared[source]
        return [f"Names without the model give interactions nearer to the true ones. {sentence}" if wins else sentence]

    def _result(
        self,
        tables: Mapping[str, pd.DataFrame],
        groups: Groups,
        donors: np.ndarray | None,
        pairs: Pairs,
        source: str,
    ) -> Result:
        found = tables[source]
        n_specific = int((found["fdr"] <= self.fdr).sum())
        first = found.iloc[0]
        summary = [
            f"{len(found):,} interactions of {len(pairs.table):,} pairs between {len(groups.names)} groups pass the "
            f"filters; {n_specific:,} have a false discovery rate of at most {self.fdr:g} under shuffled labels.",
            f"First by specificity: {first['ligand']} of {first['sender']} to {first['receptor']} of "
            f"{first['receiver']} (mean {first['mean']:.2f}, p {first['p']:.3g}).",
        ]
        shared = self._shared(tables, source)
        said = self._agreement(shared, source)
        summary = [*said, *summary] if said and not said[0].startswith("Of ") else [*summary, *said]
        notes = [CAUTION]
        if donors is None:
            notes.append(
                "Labels were shuffled over all cells: give analysis.donor=COLUMN where cells come from several donors."
            )
        return Result(
            title="Ligand-receptor pairs between cell types",
            summary=summary,
            notes=notes,
            tables={"pairs": found} | ({} if shared is None else {"agreement": shared.reset_index()}),
            shown={"pairs": SHOWN},
            figures=draw(found, groups.names, self.fdr),
            coverage={
                "groups from": source,
                "groups": len(groups.names),
                "cells": len(groups.rows),
                **{f"cells {reason}": n for reason, n in groups.dropped.items()},
                "pairs given": pairs.n_given,
                "pairs with all genes in the file": len(pairs.table),
            },
        )


def draw(found: pd.DataFrame, names: tuple[str, ...], fdr: float) -> Mapping[str, tuple[Figure, str]]:
    """A dot plot of the first interactions, and how many there are between any two groups."""
    named = found.assign(
        pair=found["ligand"] + " → " + found["receptor"], way=found["sender"] + " → " + found["receiver"]
    )
    first = named["pair"].unique()[:DOTS]
    part = named[named["pair"].isin(first)]
    ways = part["way"].value_counts().index[:COLUMNS]
    part = part[part["way"].isin(ways)]
    colors, sizes = (
        part.pivot(index="pair", columns="way", values=name).reindex(index=[p for p in first if p in set(part["pair"])])
        for name in ("mean", "p")
    )
    dots = dot_plot(colors, -np.log10(sizes), color_label="mean of ligand and receptor", size_label="−log10 p")
    specific = found[found["fdr"] <= fdr]
    counts = pd.crosstab(specific["sender"], specific["receiver"]).reindex(index=names, columns=names, fill_value=0)
    between = heat_map(counts, label="interactions", rows="sender", columns="receiver")
    return {
        "interactions": (dots, f"The first {len(first)} pairs by specificity, where they pass the filters."),
        "groups": (
            between,
            f"Interactions with a false discovery rate of at most {fdr:g}; a count grows with the cells.",
        ),
    }
