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
        ``concordance`` (:func:`concordance`), which ties of the truth leave at 1 for a perfect order, ``spearman``,
        ``kendall`` (tau-b) over the reached cells, and ``unreached``, the share of the cells with a known truth that
        have no pseudotime. They are counted, not set to 0 as scib does.

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
        "concordance": concordance(ours, true),
        "spearman": float(spearmanr(ours, true).statistic),
        "kendall": float(kendalltau(ours, true).statistic),
        "unreached": float((known & ~reached).sum() / known.sum()),
    }


def concordance(pseudotime: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pairs of cells of different truth that are in the right order; tied pseudotimes count half.

    (D + 1) / 2 of Somers' D(pseudotime | truth) (Somers 1962), Harrell's C without censoring. Unlike a rank correlation
    it asks for no order among cells of one stage: stages in perfect order score 1, whatever the order inside them.

    Args:
        pseudotime: (n,) finite.
        truth: (n,) finite, at least two different values.
    """
    if np.ptp(pseudotime) == 0:
        return 0.5
    tau = kendalltau(pseudotime, truth).statistic
    untied = [_untied_pairs(values) for values in (pseudotime, truth)]
    # tau-b = (P − Q) / √(untied pseudotimes · untied truths); D = (P − Q) / untied truths
    return float((tau * (untied[0] / untied[1]) ** 0.5 + 1) / 2)


def bootstrap_concordance(
    pseudotime: np.ndarray, truth: np.ndarray, groups: np.ndarray | None, *, n_draws: int = 200, seed: int = 0
) -> np.ndarray:
    """:func:`concordance` of resampled groups; the same seed draws the same, so that orders can be compared by draw.

    Args:
        pseudotime: (n,) finite.
        truth: (n,) finite.
        groups: (n,) donors or the like, resampled whole; None, or a single one, resamples cells.
        n_draws: resamples.
        seed: of the draws.

    Returns:
        (n_draws,); NaN where a resample has a single truth.
    """
    owner = np.zeros(len(truth), dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    if owner.max() == 0:
        owner = np.arange(len(truth))
    n_groups, rng = int(owner.max()) + 1, np.random.default_rng(seed)
    values = np.full(n_draws, np.nan)
    for draw in range(n_draws):
        times = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[owner]
        rows = np.repeat(np.arange(len(truth)), times)
        if len(np.unique(truth[rows])) > 1:
            values[draw] = concordance(pseudotime[rows], truth[rows])
    return values


def _untied_pairs(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float((len(values) ** 2 - (counts**2).sum()) / 2)


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
