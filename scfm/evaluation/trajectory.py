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

from scfm.evaluation.cells import Cells
from scfm.evaluation.folds import Fold
from scfm.evaluation.methods.cost import measure
from scfm.evaluation.methods.embeddings import Embeddings
from scfm.evaluation.methods.method import Method, Role, names
from scfm.evaluation.methods.probes import linear
from scfm.head.trajectory.diffusion import diffusion_pseudotime, extreme_cell, neighbor_graph
from scfm.metrics.trajectory import concordance, conservation, trajectory_scores

log = logging.getLogger(__name__)

N_NEIGHBORS = 15
#: (neighbors, principal components) of the diffusion pseudotimes of which the best is shown.
GRID = tuple((neighbors, width) for neighbors in (15, 30, 50) for width in (10, 30, 50))
#: More cells than this are not ordered once for each of ``GRID``.
MAX_GRID_CELLS = 5000
#: More values of the truth than this are numbers, not stages.
MAX_STAGES = 25
#: Batches of fewer cells have no order of their own that could be kept.
MIN_CELLS = 50
HEAD = Method("head", "head", "", "ours")


@dataclass(frozen=True)
class Trajectory:
    """Orderings of the cells by several methods.

    Attributes:
        methods: what was compared.
        times: (B,) pseudotime by method, NaN where there is none.
        scores: methods × metrics.
        truth: (B,) known times or stage ranks, NaN where unknown.
        stages: names of the stages by rank; empty where the truth is a number.
    """

    methods: tuple[Method, ...]
    times: dict[str, np.ndarray]
    scores: pd.DataFrame
    truth: np.ndarray
    stages: tuple[str, ...]

    def names(self, *roles: Role) -> list[str]:
        """Names of the methods of these roles."""
        return names(self.methods, *roles)

    @property
    def shown(self) -> str:
        """The method whose pseudotime is drawn: the first of ours that gives an order, the head where there is one."""
        ours = self.names("ours")
        return next((name for name in ours if np.isfinite(self.scores.loc[name, "spearman"])), ours[0])


def score_trajectory(cells: Cells, spaces: Embeddings, folds: list[Fold], seed: int) -> Trajectory:
    """Score a head's pseudotime beside diffusion pseudotime and ridge regression.

    Diffusion pseudotime starts at the earliest cells' most extreme one and reads no other label; on PCA it is shown at
    its best of ``GRID``, too, chosen by the truth that it is scored by. Ridge regression and, where the truth is
    stages, logistic regression over them learn from the training cells of the folds and are scored on the others, as a
    supervised head should be (give the split of its fine-tune).

    Args:
        cells: what is evaluated, with times.
        spaces: the embeddings to order the cells by, the one in question first.
        folds: for the regression.
        seed: of PCA.

    Returns:
        Orderings and scores over the test cells of the folds: ``concordance``, ``spearman``, ``kendall``, ``unreached``
        and, with batches, ``conservation`` of the order inside batches; ``seconds`` and ``megabytes``.

    Raises:
        ValueError: the known times have no order.
    """
    assert cells.times is not None
    truth, head = cells.times, cells.pseudotime
    _require_order(truth)
    components = cells.expression.principal_components(seed=seed)
    features = {method: spaces.values[method.name] for method in spaces.methods}
    features[Method("PCA", "PCA", "", "rival")] = components
    makers: dict[Method, Callable[[], np.ndarray]] = {}
    models: dict[str, Callable[..., np.ndarray]] = {
        "diffusion pseudotime": diffusion_time,
        "ridge": partial(ridge_predictions, folds=folds),
    }
    if has_stages(truth):
        models["logistic regression over stages"] = partial(stage_predictions, folds=folds)
    for model, make in models.items():
        for space, values in features.items():
            method = Method(f"{model} on {space.name}", space.space, model, space.role)
            makers[method] = partial(make, values, truth)
    if len(cells) <= MAX_GRID_CELLS:
        best = Method(f"diffusion pseudotime on PCA, best of {len(GRID)}", "PCA", "diffusion pseudotime", "rival")
        makers[best] = partial(best_diffusion_time, components, truth)
    made, costs = measure({method.name: make for method, make in makers.items()})
    times = made if head is None else {HEAD.name: head, **made}
    scored = np.zeros(len(cells), dtype=bool)
    scored[np.concatenate([test for _, test in folds])] = True
    inside = None if cells.batch is None else order_batches(components, truth, cells.batch)
    rows = {name: _scores(name, values, truth, scored, inside, cells.batch) for name, values in times.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").join(costs)
    methods = (*([] if head is None else [HEAD]), *makers)
    return Trajectory(methods, times, table, truth, cells.stages)


def _require_order(truth: np.ndarray) -> None:
    known = truth[np.isfinite(truth)]
    if len(known) < 3 or np.ptp(known) == 0:
        raise ValueError(
            f"{len(known)} cells have a known time, of {len(np.unique(known))} different values; an order needs at "
            "least 3 cells and 2 values"
        )


def _scores(
    name: str,
    values: np.ndarray,
    truth: np.ndarray,
    scored: np.ndarray,
    inside: np.ndarray | None,
    batch: np.ndarray | None,
) -> dict[str, float]:
    """The scores of one method; NaN where it gives no order, so that the others are scored all the same."""
    try:
        scores = trajectory_scores(values[scored], truth[scored])
        if inside is not None and batch is not None and np.isfinite(inside[scored]).sum() > 2:
            kept = conservation(inside[scored], values[scored], batch[scored])
            scores |= {metric: kept[metric] for metric in ("conservation", "conservation_by_batch")}
    except ValueError as error:
        log.warning("%s is not scored: %s", name, error)
        return dict.fromkeys(("concordance", "spearman", "kendall", "unreached"), float("nan"))
    return scores


def has_stages(truth: np.ndarray) -> bool:
    """Whether known times (B,) are few enough to be classes, each of at least two cells."""
    counts = np.unique(truth[np.isfinite(truth)], return_counts=True)[1]
    return len(counts) <= MAX_STAGES and int(counts.min()) > 1


def diffusion_time(embedding: np.ndarray, truth: np.ndarray, neighbors: int = N_NEIGHBORS) -> np.ndarray:
    """(B,) diffusion pseudotime from the most extreme of the earliest cells; NaN where it does not reach."""
    graph = neighbor_graph(embedding, neighbors)
    earliest = truth == np.nanmin(truth)
    if np.isfinite(truth).all() and len(np.unique(truth)) > len(truth) / 2:  # a number of its own for each cell
        earliest = truth <= np.quantile(truth, 0.05)
    return diffusion_pseudotime(graph, extreme_cell(graph, earliest))


def best_diffusion_time(components: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(B,) the diffusion pseudotime of ``GRID`` that agrees best with the truth: the most that a user can get of it."""
    known = np.isfinite(truth)
    best, score = np.full(len(truth), np.nan), -1.0
    for neighbors, width in GRID:
        if neighbors >= len(components) or width > components.shape[1]:
            continue
        time = diffusion_time(components[:, :width], truth, neighbors)
        reached = known & np.isfinite(time)
        if len(np.unique(time[reached])) < 2:
            continue
        agreement = concordance(time[reached], truth[reached]) * reached.sum() / known.sum()
        if agreement > score:
            best, score = time, agreement
    return best


def stage_predictions(embedding: np.ndarray, truth: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """(B,) mean stage by a logistic regression over stages, for the test cells of each fold; NaN for the others."""
    values, codes = np.unique(truth, return_inverse=True)
    predicted = np.full(len(embedding), np.nan)
    for train, test in folds:
        known = train[np.isfinite(truth[train])]
        if len(np.unique(codes[known])) < 2:
            predicted[test] = truth[known[0]]
            continue
        seen, probabilities = linear(embedding[known], codes[known], embedding[test])
        predicted[test] = probabilities @ values[seen]
    return predicted


def ridge_predictions(embedding: np.ndarray, truth: np.ndarray, folds: list[Fold]) -> np.ndarray:
    """(B,) times that a ridge regression predicts for the test cells of each fold; NaN for the others."""
    predicted = np.full(len(embedding), np.nan)
    for train, test in folds:
        known = train[np.isfinite(truth[train])]
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
        predicted[test] = model.fit(embedding[known], truth[known]).predict(embedding[test])
    return predicted


def order_batches(components: np.ndarray, truth: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """(B,) diffusion pseudotime of each batch by itself, before any integration; NaN in batches of few cells."""
    times = np.full(len(truth), np.nan)
    for name in np.unique(batch):
        own = np.flatnonzero(batch == name)
        if len(own) >= MIN_CELLS and np.isfinite(truth[own]).sum() > 2:
            times[own] = diffusion_time(components[own], truth[own])
        else:
            log.info("batch %s has %d cells: too few for an order of its own", name, len(own))
    return times


def trajectory_folds(truth: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int) -> list[Fold]:
    """Folds over the cells with a known time, whole groups on one side where there are at least two."""
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.flatnonzero(np.isfinite(truth))
    if groups is not None and len(np.unique(groups[rows])) > 1:
        splitter = GroupKFold(min(n_folds, len(np.unique(groups[rows]))), shuffle=True, random_state=seed)
        parts = splitter.split(rows, groups=groups[rows])
    else:
        parts = KFold(min(n_folds, len(rows)), shuffle=True, random_state=seed).split(rows)
    return [(rows[train], rows[test]) for train, test in parts]
