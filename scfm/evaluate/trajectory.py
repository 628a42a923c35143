"""Orderings of the same cells by several methods, against known stages or times."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scfm.evaluate.cells import Cells
from scfm.evaluate.cost import Cost
from scfm.evaluate.folds import Fold
from scfm.head.trajectory.diffusion import diffusion_pseudotime, extreme_cell, neighbour_graph
from scfm.metrics.trajectory import conservation, trajectory_scores

logger = logging.getLogger(__name__)

NEIGHBOURS = 15
#: Fewer cells of a batch than this have no order of their own that could be kept.
FEWEST = 50


@dataclass(frozen=True)
class Ordering:
    """What came of it.

    Attributes:
        times: (B,) pseudotime by method, NaN where there is none.
        scores: methods × metrics.
        ours: the methods that use the embedding or the head.
        truth: (B,) known times or stage ranks, NaN where unknown.
        stages: names of the stages by rank; empty where the truth is a number.
    """

    times: dict[str, np.ndarray]
    scores: pd.DataFrame
    ours: list[str]
    truth: np.ndarray
    stages: tuple[str, ...]

    @property
    def shown(self) -> np.ndarray:
        """(B,) the pseudotime of the head, or of the embedding where there is no head."""
        return self.times[self.ours[0]]


def order_cells(cells: Cells, embedding: str, folds: list[Fold], seed: int) -> Ordering:
    """Judge a head's pseudotime beside diffusion pseudotime and ridge regression.

    Diffusion pseudotime starts at the earliest cells' most extreme one and sees no other label. Ridge regression on
    principal components learns from the training cells of the folds and is judged on the others, as a supervised head
    should be (give the split of its fine-tune).

    Args:
        cells: what is evaluated, with times.
        embedding: its name.
        folds: for the regression.
        seed: of PCA.

    Returns:
        Orderings and scores over the test cells of the folds: ``spearman``, ``kendall``, ``unreached`` and, with
        batches, ``conservation`` of the order inside batches; ``seconds`` and ``megabytes``.

    Raises:
        ValueError: no known order; see :func:`scfm.metrics.trajectory.trajectory_scores`.
    """
    assert cells.times is not None
    truth, head = cells.times, cells.pseudotime
    components = cells.expression.principal_components(seed=seed)
    spaces = {embedding: cells.embedding, **cells.others, "PCA": components}
    makers: dict[str, Callable[[], np.ndarray]] = {
        **{f"diffusion pseudotime on {name}": partial(diffused, space, truth) for name, space in spaces.items()},
        **{f"ridge on {name}": partial(ridged, space, truth, folds) for name, space in spaces.items()},
    }
    times: dict[str, np.ndarray] = {} if head is None else {"head": head}
    costs = {}
    for name, make in makers.items():
        with Cost() as cost:
            times[name] = make()
        costs[name] = {"seconds": cost.seconds, "megabytes": cost.megabytes}
    judged = np.zeros(len(cells), dtype=bool)
    judged[np.concatenate([test for _, test in folds])] = True
    inside = None if cells.batch is None else within_batches(components, truth, cells.batch)
    rows = {}
    for name, values in times.items():
        rows[name] = _scores(values, truth, judged, inside, cells.batch) | costs.get(name, {})
    ours = [name for name in times if name == "head" or name.endswith(f" {embedding}")]
    return Ordering(times, pd.DataFrame.from_dict(rows, orient="index"), ours, truth, cells.stages)


def _scores(
    values: np.ndarray, truth: np.ndarray, judged: np.ndarray, inside: np.ndarray | None, batch: np.ndarray | None
) -> dict[str, float]:
    found = trajectory_scores(values[judged], truth[judged])
    if inside is not None and batch is not None and np.isfinite(inside[judged]).sum() > 2:
        kept = conservation(inside[judged], values[judged], batch[judged])
        found |= {name: kept[name] for name in ("conservation", "conservation_by_batch")}
    return found


def diffused(embedding: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(B,) diffusion pseudotime from the most extreme of the earliest cells; NaN where it does not reach."""
    graph = neighbour_graph(embedding, NEIGHBOURS)
    earliest = truth == np.nanmin(truth)
    if np.isfinite(truth).all() and len(np.unique(truth)) > len(truth) / 2:  # a number of its own for each cell
        earliest = truth <= np.quantile(truth, 0.05)
    return diffusion_pseudotime(graph, extreme_cell(graph, earliest))


def ridged(embedding: np.ndarray, truth: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """(B,) what a ridge regression says of the test cells of each fold; NaN of the others."""
    found = np.full(len(embedding), np.nan)
    for train, test in folds:
        known = train[np.isfinite(truth[train])]
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
        found[test] = model.fit(embedding[known], truth[known]).predict(embedding[test])
    return found


def within_batches(components: np.ndarray, truth: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(B,) diffusion pseudotime of each batch by itself, before any integration; NaN in batches of few cells."""
    found = np.full(len(truth), np.nan)
    for name in np.unique(batch):
        own = np.flatnonzero(batch == name)
        if len(own) >= FEWEST and np.isfinite(truth[own]).sum() > 2:
            found[own] = diffused(components[own], truth[own])
        else:
            logger.info("batch %s has %d cells: too few for an order of its own", name, len(own))
    return found


def ordering_folds(truth: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int) -> list[Fold]:
    """Folds over the cells with a known time, whole groups on one side where there are at least two."""
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.flatnonzero(np.isfinite(truth))
    if groups is not None and len(np.unique(groups[rows])) > 1:
        splitter = GroupKFold(min(n_folds, len(np.unique(groups[rows]))), shuffle=True, random_state=seed)
        parts = splitter.split(rows, groups=groups[rows])
    else:
        parts = KFold(min(n_folds, len(rows)), shuffle=True, random_state=seed).split(rows)
    return [(rows[train], rows[test]) for train, test in parts]
