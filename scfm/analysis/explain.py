"""Why a cell gets its label: attributions of genes, a test by deletion, and markers beside those of expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from scfm.analysis.attribution.attention import embedding_rollout
from scfm.analysis.attribution.deletion import deletion_drops
from scfm.analysis.attribution.gradients import Presence, integrated_gradients
from scfm.analysis.attribution.label_score import Labeler, fit_probe, head_labeler
from scfm.analysis.attribution.report import Explained, compare_markers, gain_of_deletion, make_result
from scfm.analysis.base import Analysis, Work
from scfm.analysis.cell_batches import select_batches
from scfm.analysis.cells import Cells, draw_rows, read_cells
from scfm.analysis.labels import Groups, column_values, find_groups, predicted_values
from scfm.analysis.result import Result
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.inference.predict import embed_step, predict
from scfm.metrics.markers import rank_sum


@dataclass(frozen=True)
class Explain(Analysis):
    """Which genes of a cell its label rests on.

    The label is that of the checkpoint's annotation head, or else of a logistic regression on the embedding. Half of
    the donors (or cells) are explained; the other half fits that regression and gives the markers to compare with.

    Attributes:
        label: obs column of the groups; None: the classes that the head gives.
        donor: obs column that is kept whole in the two halves.
        max_cells: cells that are explained, at most; drawn evenly from the groups.
        held_out_cells: cells of the other half that are read, at most.
        min_cells: smaller groups are left out.
        n_steps: of integrated gradients.
        sizes: how many genes the deletion test takes out.
        n_draws: random sets of genes of the same ranks, for each cell.
        seed: of halves and draws.
    """

    name: ClassVar[str] = "explain"

    label: str | None = None
    donor: str | None = None
    max_cells: int = 100
    held_out_cells: int = 2000
    min_cells: int = 5
    n_steps: int = 16
    sizes: Sequence[int] = (1, 5, 20)
    n_draws: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        whole = {
            name: getattr(self, name) for name in ("max_cells", "held_out_cells", "min_cells", "n_steps", "n_draws")
        }
        for name, value in whole.items():
            if value < 1:
                raise ValueError(f"analysis.{name}={value}; expected a whole number, 1 or more")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"analysis.sizes={list(self.sizes)}; expected numbers of genes, 1 or more each")

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """Explain the cells of one half, and compare with the other."""
        labeler = head_labeler(model)
        if labeler is None and self.label is None:
            raise ValueError(
                f"{model.checkpoint.path} has no annotation head whose labels could be explained; give "
                "analysis.label=COLUMN of obs, on which a logistic regression is fitted, or fine-tune "
                "head=annotation/classifier"
            )
        if self.label is not None:
            values, source = column_values(cells, self.label), f"obs[{self.label!r}]"
        else:
            values, source = predicted_values(model, cells, work), "the head's own labels"
        groups = find_groups(values, self.min_cells, source)
        explained, held = self._halves(cells, groups)
        read = {name: read_cells(cells, rows) for name, rows in (("explained", explained), ("held out", held))}
        codes = pd.Series(groups.codes, index=groups.rows)
        if labeler is None:
            assert self.label is not None
            rows = read["held out"].rows
            labeler = fit_probe(
                model, self.label, groups.names, _embeddings(model, cells, rows, work), codes[rows].to_numpy()
            )
            source = f"logistic regression of {source} on the embedding of the other half"
        found = self._explain(model, cells, labeler, read, codes, len(groups.names), work)
        markers = compare_markers(found, read["explained"], read["held out"], codes, groups.names, model.vocab)
        return make_result(
            found, markers, gain_of_deletion(found, self.sizes, self.seed), labeler, groups, source, model.vocab
        )

    def _halves(self, cells: CellInput, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the half that is explained and of the other."""
        rng = np.random.default_rng(self.seed)
        if self.donor is None:
            first = np.zeros(len(groups.rows), dtype=bool)
            for group in range(len(groups.names)):  # a half of every group
                own = rng.permutation(np.flatnonzero(groups.codes == group))
                first[own[: len(own) // 2]] = True
        else:
            donors = column_values(cells, self.donor)[groups.rows]
            names = np.unique(donors.astype(str))
            if len(names) < 2:
                raise ValueError(
                    f"obs[{self.donor!r}] names one donor, {names[0]!r}; halves of donors need two, or leave "
                    "analysis.donor out"
                )
            first = np.isin(donors.astype(str), rng.permutation(names)[: len(names) // 2])
        sides = []
        for side, limit in ((first, self.max_cells), (~first, self.held_out_cells)):
            rows = groups.rows[side]
            sides.append(draw_rows(rows, limit, list(groups.codes[side]), self.seed))
            if len(np.unique(groups.codes[side])) < 2:
                raise ValueError(
                    "one half of the cells has a single group; give more cells, or leave analysis.donor out"
                )
        return sides[0], sides[1]

    def _explain(
        self,
        model: Model,
        cells: CellInput,
        labeler: Labeler,
        read: dict[str, Cells],
        codes: pd.Series,
        n_groups: int,
        work: Work,
    ) -> Explained:
        """Attributions of all tokens and the deletion test, batch by batch."""
        rows, held = read["explained"].rows, read["held out"]
        z = rank_sum(held.log_normalized(), codes[held.rows].to_numpy(), n_groups)
        wilcoxon = torch.from_numpy(np.nan_to_num(z)).float().to(model.module.device)
        presence, rng = Presence(model.backbone, model.vocab), np.random.default_rng(self.seed)
        gene = torch.zeros(len(model.vocab), dtype=torch.bool, device=model.module.device)
        gene[torch.from_numpy(model.vocab.gene_ids).to(gene.device)] = True
        found = Explained(len(self.sizes))
        with work.bar("Explaining", len(rows)) as advance:
            for batch in select_batches(cells, rows, work, model.module.device):
                with torch.no_grad():
                    called = labeler.logits(batch).argmax(1)
                score = labeler.log_odds(called)
                gradients = integrated_gradients(presence, score, batch, self.n_steps)
                group = torch.from_numpy(codes[batch.index.cpu().numpy()].to_numpy()).to(called.device)
                weights = {
                    "integrated_gradients": gradients.tokens,
                    "rollout": embedding_rollout(model.backbone, batch, model.vocab),
                    "wilcoxon": wilcoxon[group[batch.token_cell], batch.ids],
                    "rank": -batch.positions.float(),
                }
                drops = {
                    name: deletion_drops(score, batch, gene[batch.ids], values, self.sizes, rng, self.n_draws)
                    for name, values in weights.items()
                }
                found.add(batch, gene[batch.ids], called, group, gradients, weights, drops)
                advance(batch.n_cells)
        return found


def _embeddings(model: Model, cells: CellInput, rows: np.ndarray, work: Work) -> np.ndarray:
    step = embed_step(model.backbone, model.vocab)
    return predict(step, select_batches(cells, rows, work, torch.device("cpu")), rows, model.module.device)["embedding"]
