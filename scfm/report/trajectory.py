"""The trajectory's part of a report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from scfm import plot
from scfm.evaluation.methods.expression import Expression
from scfm.evaluation.trajectory import Trajectory
from scfm.page import paragraph, side_by_side, table

#: Genes drawn along pseudotime.
N_GENES = 8


def trajectory_figures(expression: Expression, trajectory: Trajectory) -> dict[str, tuple[Figure, str]]:
    """The pictures of a trajectory, each with its caption."""
    time = trajectory.times[trajectory.shown]
    columns = changing_genes(expression, time)
    figures = {
        "genes_along_pseudotime": (
            plot.gene_trends(
                time, expression.values[:, columns].toarray(), [str(g) for g in expression.genes[columns]]
            ),
            "Log-normalized expression along pseudotime, smoothed; the genes that rise and fall the most.",
        )
    }
    names = stage_names(trajectory)
    if names is not None:
        figures["stages"] = (
            plot.stage_violins(time, *names, title=f"{trajectory.shown} in each stage"),
            "Pseudotime in each stage, from first to last; the white point is the median.",
        )
    return figures


def stage_names(trajectory: Trajectory) -> tuple[np.ndarray, list[str]] | None:
    """(B,) the stage of each cell and the stages in order; None where times are a continuum."""
    known = np.isfinite(trajectory.truth)
    values = np.unique(trajectory.truth[known])
    if len(values) > 25:
        return None
    names = trajectory.stages or tuple(f"{value:g}" for value in values)
    place = np.searchsorted(values, np.where(known, trajectory.truth, values[0]))
    if trajectory.stages:
        place = np.where(known, trajectory.truth, 0).astype(np.int64)
    return np.where(known, np.array(names, dtype=object)[place], ""), list(names)


def changing_genes(expression: Expression, time: np.ndarray, n_genes: int = N_GENES) -> np.ndarray:
    """Columns of the genes whose rank correlation with pseudotime is the most positive and the most negative.

    Genes of fewer than a twentieth of the cells do not count.
    """
    known = np.isfinite(time)
    values = expression.values[known].tocsc()
    often = np.flatnonzero(np.diff(values.indptr) >= max(3, known.sum() // 20))
    rank = rankdata(time[known])
    rank = (rank - rank.mean()) / rank.std()
    part = values[:, often]
    mean = np.asarray(part.mean(axis=0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(part.multiply(part).mean(axis=0)).ravel() - mean**2, 1e-12))
    correlation = np.asarray(part.T @ rank).ravel() / known.sum() / spread
    order = np.argsort(correlation)
    half = min(n_genes // 2, len(order) // 2)
    return often[np.concatenate([order[::-1][:half], order[:half]])]


def trajectory_parts(trajectory: Trajectory | None, drawn: Mapping[str, str]) -> list[str]:
    """The part of a report about a trajectory; nothing where there is none."""
    if trajectory is None:
        return []
    text = (
        "Spearman's and Kendall's correlation with the known times, over the cells that a method reaches; unreached is "
        "the share that it does not. Conservation: the order inside each batch, found there before any integration, "
        "against the one given here, (ρ + 1) / 2. Diffusion pseudotime knows the earliest cells alone; ridge "
        "regression learns times from training cells and is judged on others."
    )
    scores = table(
        trajectory.scores,
        smaller_is_better=["unreached"],
        unranked=["seconds", "megabytes"],
        own=trajectory.names("ours"),
    )
    pictures = [drawn[name] for name in ("stages", "genes_along_pseudotime") if name in drawn]
    return [scores, paragraph(text), side_by_side(*pictures)]
