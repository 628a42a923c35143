"""How well an ordering of cells fits a known one."""

import logging

import numpy as np
from scipy.stats import kendalltau, spearmanr

log = logging.getLogger(__name__)


def trajectory_scores(pseudotime: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Rank agreement of a pseudotime with known stages or times.

    Args:
        pseudotime: (B,); infinite or NaN where a cell could not be reached.
        truth: (B,) stage ranks or times; NaN where unknown.

    Returns:
        ``spearman``, ``kendall`` (tau-b) over the reached cells, and ``unreached``, the share of the cells with a
        known truth that have no pseudotime. They are counted, not set to 0 as scib does.

    Raises:
        ValueError: fewer than three reached cells with truth, or a constant on one side.
    """
    known = np.isfinite(truth)
    reached = known & np.isfinite(pseudotime)
    if reached.sum() < 3:
        raise ValueError(f"{int(reached.sum())} cells have both a pseudotime and a stage; expected at least 3")
    ours, true = pseudotime[reached], truth[reached]
    for name, values in (("pseudotime", ours), ("stage", true)):
        if np.ptp(values) == 0:
            raise ValueError(f"the {name} is {values[0]:g} in all cells; an order needs at least two values")
    return {
        "spearman": float(spearmanr(ours, true).statistic),
        "kendall": float(kendalltau(ours, true).statistic),
        "unreached": float((known & ~reached).sum() / known.sum()),
    }


def conservation(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> dict[str, float]:
    """Whether integration kept the order inside each batch: (ρ + 1)/2 (scIB, Luecken et al., 2022).

    Args:
        before: (B,) pseudotime computed within each batch before integration.
        after: (B,) pseudotime on the integrated embedding.
        batch: (B,).

    Returns:
        ``conservation`` over all cells, ``conservation_by_batch`` (mean over the batches with at least three reached
        cells and an order) and ``unreached``, the share of cells without either pseudotime.

    Raises:
        ValueError: as :func:`trajectory_scores`.
    """
    whole = trajectory_scores(after, np.where(np.isfinite(before), before, np.nan))["spearman"]
    inside = []
    for name in np.unique(batch):
        own = batch == name
        try:
            inside.append(
                trajectory_scores(after[own], np.where(np.isfinite(before[own]), before[own], np.nan))["spearman"]
            )
        except ValueError as error:
            log.info("batch %s has no order to conserve: %s", name, error)
    reached = np.isfinite(before) & np.isfinite(after)
    return {
        "conservation": (whole + 1) / 2,
        "conservation_by_batch": float((np.mean(inside) + 1) / 2) if inside else float("nan"),
        "unreached": float(1 - reached.mean()),
    }
