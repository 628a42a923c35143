"""Samples with a label, their cells, and what simple methods read of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from scfm.analysis.base import Work
from scfm.analysis.cell_batches import select_batches
from scfm.analysis.cells import Cells, draw_rows, read_cells
from scfm.analysis.labels import column_values
from scfm.head.cell_state import CellState
from scfm.head.phenotype.bags import Samples, find_samples, require_donors, require_no_batch
from scfm.head.survey import Survey
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.inference.predict import embed_step, predict
from scfm.types import Ragged, Spec

#: Genes that tell sex, where the file has them.
SEX_GENES = ("XIST", "RPS4Y1")
#: Decimals with a value above this are no logarithms.
LARGEST_LOG = 30.0


@dataclass(frozen=True)
class Cohort:
    """Cells of labeled samples.

    Attributes:
        samples: codes, labels, donors; ``samples.cells`` is by row of ``cells``.
        names: (S,) of the samples.
        classes: of the label, in the order of the codes.
        cells: counts, obs and rankings.
        embedding: (n, D) by the frozen backbone.
        types: (n,) name of each cell's type; "" everywhere without such a column.
        batch_p: p of a χ² test of label and batch; NaN without batches.
    """

    samples: Samples
    names: np.ndarray
    classes: tuple[str, ...]
    cells: Cells
    embedding: np.ndarray
    types: np.ndarray
    batch_p: float

    def pseudobulk(self) -> np.ndarray:
        """(S, V) log1p of the mean expression of each sample, cells brought to a sum of 10,000; means of logarithms."""
        values = self.cells.counts
        linear = self.cells.is_counts or values.max() > LARGEST_LOG
        if linear:
            values = values.multiply(1e4 / self.cells.totals[:, None]).tocsr()
        found = np.zeros((len(self.samples), values.shape[1]))
        for sample in range(len(self.samples)):
            found[sample] = np.asarray(values[self.samples.cells == sample].mean(axis=0)).ravel()
        return np.log1p(found) if linear else found

    def proportions(self) -> np.ndarray | None:
        """(S, types) share of each type in a sample; None without types."""
        names = np.unique(self.types[self.types != ""].astype(str))
        if len(names) < 2:
            return None
        place = self.samples.cells
        shares = [
            [(self.types[place == sample] == name).mean() for name in names] for sample in range(len(self.samples))
        ]
        return np.array(shares)

    def sizes(self) -> np.ndarray:
        """(S, 2) log of the number of cells and of the mean library size: what must not tell the label."""
        place = self.samples.cells
        return np.array(
            [
                [np.log((place == s).sum()), np.log(self.cells.totals[place == s].mean())]
                for s in range(len(self.samples))
            ]
        )

    def sex(self, model: Model) -> np.ndarray | None:
        """(S, genes) pseudobulk of the genes that tell sex; None where the model or the file lacks them."""
        from scfm.analysis.perturbation.design import name_set

        vocab = model.vocab
        names = {name_set((int(token),), vocab)[1]: int(token) for token in vocab.gene_ids}
        tokens = [names[gene] for gene in SEX_GENES if gene in names]
        values = self.pseudobulk()[:, tokens]
        return values if tokens and np.ptp(values, axis=0).max() > 0 else None

    def states(self, model: Model, train: np.ndarray, gene_components: int) -> np.ndarray:
        """(n, D') what a head reads of the cells, its components fitted on those of some samples.

        Args:
            model: brings vocabulary and width.
            train: (S,) bool, samples that may be fitted on.
            gene_components: k.
        """
        state = CellState(Spec(model.vocab, model.backbone.width), gene_components, score="log")
        inside = (self.samples.cells >= 0) & train[np.maximum(self.samples.cells, 0)]
        ranked = self.cells.ranked
        survey = Survey(np.arange(len(inside)), inside, self.embedding, tokens=lambda places: _take(ranked, places))
        state.prepare(survey)
        return state.from_survey(survey)


def _take(ragged: Ragged, places: np.ndarray) -> Ragged:
    rows = [ragged[int(place)] for place in places]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.concatenate(rows), offsets)


def read_cohort(
    model: Model, given: CellInput, work: Work, *, label: str, sample: str, donor: str | None, batch: str | None,
    types: str | None, min_cells: int, max_cells: int, seed: int,
) -> Cohort:  # fmt: skip
    """Read the cells of all labeled samples.

    Args:
        model: whose backbone embeds the cells.
        given: open cells.
        work: keeps the embedding, shows progress.
        label: obs column of the classes.
        sample: obs column of the samples.
        donor: obs column of the donors; None: samples are donors.
        batch: obs column of batches; None for none.
        types: obs column of types; None for none.
        min_cells: smaller samples are left out.
        max_cells: of a sample, drawn at random.
        seed: of the draw.

    Raises:
        ValueError: a column that is not there, or samples that cannot be learned from
            (:mod:`scfm.head.phenotype.bags`).
    """
    named = {name: column_values(given, name) for name in dict.fromkeys([label, sample, donor, batch, types]) if name}
    codes = {name: pd.Categorical([value or None for value in values]) for name, values in named.items()}
    truth, owners = codes[label], codes[donor or sample]
    every = codes[sample].codes.astype(np.int64)
    all_samples = find_samples(
        every, truth.codes.astype(np.int64), owners.codes.astype(np.int64) if donor else None,
        min_cells=min_cells, names=list(codes[sample].categories),
    )  # fmt: skip
    classes = tuple(str(name) for name in truth.categories)
    require_donors(all_samples, classes)
    p = float("nan")
    if batch is not None:
        p = require_no_batch(all_samples, codes[batch].codes.astype(np.int64), batch)
    chosen = [draw_rows(np.flatnonzero(all_samples.cells == i), max_cells, None, seed) for i in range(len(all_samples))]
    cells = read_cells(given, np.sort(np.concatenate(chosen)))
    place = all_samples.cells[cells.rows]
    samples = Samples(all_samples.codes, all_samples.truth, all_samples.donors, place)
    names = np.array(codes[sample].categories, dtype=object)[all_samples.codes]
    return Cohort(
        samples, names, classes, cells, _embed(model, given, cells.rows, work),
        named[types][cells.rows] if types else np.full(len(place), "", dtype=object), p,
    )  # fmt: skip


def _embed(model: Model, given: CellInput, rows: np.ndarray, work: Work) -> np.ndarray:
    step = embed_step(model.backbone, model.vocab)
    device = model.module.device

    def make() -> dict[str, np.ndarray]:
        with work.bar("Embedding", len(rows)) as advance:
            return predict(step, select_batches(given, rows, work, torch.device("cpu")), rows, device, advance)

    return work.part("embedding", make)["embedding"]
