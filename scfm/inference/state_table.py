"""Cells of a state as one vector: the mean and the geometric median of their embeddings, beside simple vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.decomposition import PCA

from scfm.batch import Batch
from scfm.inference.cell_input import CellInput
from scfm.inference.gene_table import N_COMPONENTS, log_counts
from scfm.inference.predict import Step
from scfm.model.pooling import pool
from scfm.vocab import Vocab


@dataclass(frozen=True)
class CellVectors:
    """What one pass over cells gives.

    Attributes:
        embedding: (n, D), NaN for cells without a known gene.
        static: (n, D), means of the input embeddings of their genes.
        components: (n, k), principal components of log1p(counts per 10,000).
    """

    embedding: np.ndarray
    static: np.ndarray
    components: np.ndarray


def static_step(step: Step, input_vectors: Callable[[torch.Tensor], torch.Tensor], vocab: Vocab) -> Step:
    """The same step with ``static`` (B, D) beside: the mean of the input embeddings of a cell's genes."""

    def both(batch: Batch) -> dict[str, np.ndarray]:
        static = pool(input_vectors(batch.ids), batch, "mean", vocab)
        return {**step(batch), "static": static.float().cpu().numpy()}

    return both


def cell_components(given: CellInput, n_tokens: int) -> np.ndarray:
    """The baseline of cells: principal components of log1p(counts per 10,000), (n, k) float32, k at most 50."""
    counts = log_counts(given, n_tokens)
    used = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel())
    k = min(N_COMPONENTS, counts.shape[0] - 1, len(used) - 1)
    if k < 1:
        return np.zeros((counts.shape[0], 1), dtype=np.float32)
    scores: np.ndarray = PCA(k, svd_solver="arpack", random_state=0).fit_transform(counts[:, used])
    return scores.astype(np.float32)


def make_state_table(vectors: CellVectors, obs: pd.DataFrame, *, by: str, donor: str | None, min_cells: int) -> AnnData:
    """The vectors of states.

    Args:
        vectors: of all cells.
        obs: (n rows) of the cells.
        by: column of the states; a cell without one counts nowhere.
        donor: column of donors, or None.
        min_cells: cells with an embedding that a state must have.

    Returns:
        states x D: means in X, ``layers["median"]`` (geometric median) and ``layers["sd"]`` over cells; ``obs`` with
        the state, n_cells and, with ``donor``, n_donors; ``obsm["X_static"]`` and ``obsm["X_pca"]``, means of the
        simple vectors.

    Raises:
        ValueError: no such column, or no state with so many cells.
    """
    for key, column in (("by", by), ("donor", donor)):
        if column is not None and column not in obs:
            raise ValueError(f"{key}={column!r} is no obs column; the file has {', '.join(map(str, obs.columns))}")
    codes, names = pd.factorize(obs[by].astype("object"), sort=True)
    read = np.isfinite(vectors.embedding[:, 0])
    members = {str(name): np.flatnonzero((codes == code) & read) for code, name in enumerate(names)}
    members = {name: rows for name, rows in members.items() if len(rows) >= max(min_cells, 1)}
    if not members:
        raise ValueError(f"no state of {by!r} has {min_cells} cells; lower min_cells or give more cells")
    table = AnnData(
        _each(members, vectors.embedding, lambda points: points.mean(axis=0)),
        obs=pd.DataFrame({by: list(members)}, index=pd.Index(list(members))),
        layers={
            "median": _each(members, vectors.embedding, geometric_median),
            "sd": _each(members, vectors.embedding, _sd),
        },
    )
    table.obs["n_cells"] = [len(rows) for rows in members.values()]
    if donor is not None:
        table.obs["n_donors"] = [obs[donor].iloc[rows].nunique() for rows in members.values()]
    for name, values in (("X_static", vectors.static), ("X_pca", vectors.components)):
        table.obsm[name] = _each(members, values, lambda points: points.mean(axis=0))
    return table


def _each(
    members: Mapping[str, np.ndarray], values: np.ndarray, summary: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """(states, D) float32, each summed in float64."""
    return np.stack([summary(values[rows].astype(np.float64)) for rows in members.values()]).astype(np.float32)


def _sd(points: np.ndarray) -> np.ndarray:
    """(D,) with n - 1; NaN for one point."""
    return points.std(axis=0, ddof=1) if len(points) > 1 else np.full(points.shape[1], np.nan)


def geometric_median(points: np.ndarray, *, tolerance: float = 1e-10, max_steps: int = 1000) -> np.ndarray:
    """The point with the smallest sum of distances to all points: outliers move it less than a mean.

    Weiszfeld's iteration with the step of Vardi and Zhang 2000 (PNAS 97:1423), which also leaves a data point that is
    not the median.

    Args:
        points: (n, D) float64.
        tolerance: stop when a step is shorter than this share of the points' spread.
        max_steps: stop after so many steps in any case.

    Returns:
        (D,).

    Example:
        >>> geometric_median(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [100.0, 100.0]])).round(2)
        array([0.5, 0.5])
    """
    found = points.mean(axis=0)
    spread = float(np.linalg.norm(points - found, axis=1).mean())
    for _ in range(max_steps):
        distance = np.linalg.norm(points - found, axis=1)
        away = distance > 1e-14 * max(spread, 1e-300)
        if not away.any():
            break
        weight = 1 / distance[away]
        target = weight @ points[away] / weight.sum()
        pull = float(np.linalg.norm(weight @ (points[away] - found)))
        here = int((~away).sum())  # points that lie where we are hold with a force of one each
        stays = min(1.0, here / pull) if pull > 0 else 1.0
        step = (1 - stays) * (target - found)
        found = found + step
        if np.linalg.norm(step) <= tolerance * spread:
            break
    return found
