"""Which neighborhoods of cells go with a phenotype of their samples; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from scfm import plot
from scfm.analysis.base import Analysis, Work
from scfm.analysis.cell_batches import select_batches
from scfm.analysis.labels import column_values
from scfm.analysis.phenotypes.neighborhoods import associate, neighborhood_abundance
from scfm.analysis.result import Result
from scfm.head.phenotype.bags import Samples, find_samples
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.inference.predict import embed_step, predict
from scfm.metrics.neighbors import find_neighbors

NOTE = (
    "An association is of abundance: samples of one label have more cells in a neighborhood. It shows no cause, and "
    "batches that go with the label look alike. Cells of a neighborhood are not independent: count regions, not cells."
)


@dataclass(frozen=True)
class AssociationTest(Analysis):
    """Tests the abundance of neighborhoods in the embedding against a label of samples (CNA).

    Attributes:
        label: obs column, two classes or numbers, constant in a sample.
        sample: obs column of the samples.
        batch: obs column of batches of samples; labels are permuted inside, and neighborhoods that follow it dropped.
        covariates: obs columns of numbers, constant in a sample, that are regressed out.
        types: obs column of cell types, for the table by type.
        within: subtract the mean of a cell's type from its embedding before neighbors are sought.
        neighbors: of the graph.
        permutations: of the labels.
        max_fdr: cells below it are counted as associated.
        min_cells: smaller samples are left out.
        seed: of the permutations.
    """

    name: ClassVar[str] = "association"

    label: str
    sample: str = "donor"
    batch: str | None = None
    covariates: Sequence[str] = ()
    types: str | None = None
    within: bool = False
    neighbors: int = 15
    permutations: int = 500
    max_fdr: float = 0.1
    min_cells: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.neighbors < 2 or self.permutations < 1 or self.min_cells < 2 or not 0 < self.max_fdr < 1:
            raise ValueError(
                f"analysis.neighbors={self.neighbors}, permutations={self.permutations}, min_cells={self.min_cells}, "
                f"max_fdr={self.max_fdr}; expected at least 2, 1 and 2, and a share"
            )
        if self.within and self.types is None:
            raise ValueError("analysis.within=true subtracts the means of types; give analysis.types=COLUMN")

    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """See the class."""
        samples, truth, names = self._samples(cells)
        rows = np.flatnonzero(samples.cells >= 0)
        place = samples.cells[rows]
        with work.bar("Embedding", len(rows)) as advance:
            values = predict(
                embed_step(model.backbone, model.vocab), select_batches(cells, rows, work, torch.device("cpu")), rows,
                model.module.device, advance,
            )["embedding"]  # fmt: skip
        types = column_values(cells, self.types)[rows] if self.types else np.full(len(rows), "", dtype=object)
        if self.within:
            for name in np.unique(types.astype(str)):
                values[types == name] -= values[types == name].mean(axis=0)
        graph = find_neighbors(values, self.neighbors).connectivities()
        abundance, steps = neighborhood_abundance(graph, place, len(samples))
        batch = None
        if self.batch:
            batch = self._of_samples(column_values(cells, self.batch), samples)
            batch = np.unique(batch.astype(str), return_inverse=True)[1]
        covariates = None
        if self.covariates:
            columns = [self._of_samples(column_values(cells, name), samples) for name in self.covariates]
            covariates = np.array([[float(value) for value in column] for column in columns]).T
        found = associate(
            abundance, truth, batch=batch, covariates=covariates, permutations=self.permutations, seed=self.seed,
            steps=steps,
        )  # fmt: skip
        frame = pd.DataFrame({
            "cell": cells.cells.obs.index.astype(str)[rows], "sample": names[place], "type": types.astype(str),
            "scfm_association": found.r, "scfm_association_fdr": found.fdr,
        })  # fmt: skip
        n = int((found.fdr < self.max_fdr).sum())
        summary = [
            f"The abundance of neighborhoods goes with {self.label} with p = {found.p:.3f} ({len(samples)} samples, "
            f"{len(rows):,} cells, {found.k} component(s), {self.permutations} permutations). "
            f"{n:,} cells are associated at a false discovery rate below {self.max_fdr:g}."
        ]
        if found.p > 0.05:
            summary[0] = f"No association is found. {summary[0]}"
        by_type = self._by_type(frame, place, truth)
        figure = plot.attention_histogram(frame["scfm_association"].dropna().to_numpy(), title="r of neighborhoods")
        return Result(
            f"Association: {self.label}", summary, {"by_type": by_type, "cells": frame}, [NOTE],
            large=frozenset({"cells"}), shown={"by_type": list(by_type.columns)},
            figures={"association": (figure, "Correlation of each cell's neighborhood with the label, over samples.")},
            coverage={"samples": len(samples), "cells": len(rows), "steps of the walk": found.steps,
                      "neighborhoods that follow the batch": int((~found.kept).sum())},
        )  # fmt: skip

    def _samples(self, cells: CellInput) -> tuple[Samples, np.ndarray, np.ndarray]:
        """Samples, their label as a number, and their names."""
        labels, named = column_values(cells, self.label), column_values(cells, self.sample)
        codes = pd.Categorical([value or None for value in named])
        numbers = pd.to_numeric(pd.Series(labels).replace("", None), errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(numbers[labels != ""]).all():
            classes = sorted(set(labels[labels != ""]))
            if len(classes) != 2:
                raise ValueError(f"analysis.label={self.label!r} has {len(classes)} classes; expected two, or numbers")
            numbers = np.where(labels == "", np.nan, (labels == classes[1]).astype(float))
        samples = find_samples(
            codes.codes.astype(np.int64), numbers, min_cells=self.min_cells, names=list(codes.categories)
        )
        return samples, samples.truth, np.array(codes.categories, dtype=object)[samples.codes]

    def _of_samples(self, values: np.ndarray, samples: Samples) -> np.ndarray:
        return np.array([values[np.flatnonzero(samples.cells == i)[0]] for i in range(len(samples))], dtype=object)

    def _by_type(self, frame: pd.DataFrame, place: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
        """What simple proportions say: the rank correlation of each type's share with the label, p by permutation."""
        rng, rows = np.random.default_rng(self.seed), []
        ranks = np.stack([rankdata(truth), *(rng.permutation(rankdata(truth)) for _ in range(self.permutations))])
        ranks = (ranks - ranks.mean(axis=1, keepdims=True)) / ranks.std(axis=1, keepdims=True)
        for name, part in frame.groupby("type"):
            share = rankdata([(frame["type"].to_numpy()[place == i] == name).mean() for i in range(len(truth))])
            r = ranks @ (share - share.mean()) / max(share.std() * len(truth), 1e-12)
            p = (1 + (np.abs(r[1:]) >= abs(r[0]) - 1e-12).sum()) / len(r)
            own = (part["scfm_association_fdr"] < self.max_fdr).mean()
            rows.append((name, len(part), part["scfm_association"].mean(), own, r[0], p))
        columns = ["type", "cells", "mean_r", "share_associated", "rho_of_its_share", "p_of_its_share"]
        return pd.DataFrame(rows, columns=columns)
