"""Scores of perturbed cells: shifts between states, and the nulls that they are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

#: Fewest donors for which the signed-rank test is used; with fewer it can reach no small p value.
SIGNED_RANK_DONORS = 6
DECILES = 10


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine along the last axis, which is broadcast; 0 where a vector is 0."""
    product = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return np.divide((one * other).sum(-1), product, out=np.zeros(np.broadcast(product).shape), where=product > 0)


@dataclass(frozen=True)
class Centroids:
    """Sums of embeddings by state; a cell is left out of its own.

    Attributes:
        sums: (S, D) float64.
        sizes: (S,) cells of each state.
    """

    sums: np.ndarray
    sizes: np.ndarray

    @classmethod
    def add_up(cls, embeddings: np.ndarray, state: np.ndarray, n_states: int) -> Centroids:
        """Sums of (n, D) embeddings of cells whose ``state`` is 0 to ``n_states`` - 1; others are -1."""
        sums = np.stack([embeddings[state == s].sum(axis=0) for s in range(n_states)])
        return cls(sums, np.bincount(state[state >= 0], minlength=n_states))

    def without(self, embedding: np.ndarray, state: int) -> np.ndarray:
        """(S, D) means, where the cell's own state has (N c - h) / (N - 1)."""
        sums, sizes = self.sums.copy(), self.sizes.astype(float)
        if state >= 0:
            sums[state] -= embedding
            sizes[state] -= 1
        return sums / np.maximum(sizes, 1)[:, None]

    def middle(self, embedding: np.ndarray, state: int, among: tuple[int, int] = (0, 1)) -> np.ndarray:
        """(D,) mean of the cells of two states, without the cell itself."""
        pair = list(among)
        own = state in pair
        return (self.sums[pair].sum(axis=0) - own * embedding) / max(self.sizes[pair].sum() - own, 1)


def state_shifts(
    original: np.ndarray, changed: np.ndarray, centroids: np.ndarray, middle: np.ndarray | None
) -> np.ndarray:
    """Change of the cosine towards each state, ``cos(h' - m, c - m) - cos(h - m, c - m)``.

    Args:
        original: (m, D) h; one row may stand for all.
        changed: (m, D) h'.
        centroids: (S, D) c.
        middle: (D,) m, the mean of start and goal cells; None for raw cosines, which lie near 1 in transformers.

    Returns:
        (m, S).
    """
    zero = np.zeros(centroids.shape[1]) if middle is None else middle
    return _cosines(changed - zero, centroids - zero) - _cosines(original - zero, centroids - zero)


def _cosines(vectors: np.ndarray, states: np.ndarray) -> np.ndarray:
    """(m, S) cosines of every vector with every state."""
    product = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(states, axis=1)[None]
    return np.divide(vectors @ states.T, product, out=np.zeros(product.shape), where=product > 0)


def projection(original: np.ndarray, changed: np.ndarray, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(m,) ``(h' - h) . (goal - start) / |goal - start|^2``: the way from start to goal in units of the gap."""
    gap = goal - start
    return (changed - original) @ gap / max(float(gap @ gap), np.finfo(float).tiny)


def permute_labels(is_goal: np.ndarray, donors: np.ndarray | None, n: int, seed: int) -> np.ndarray:
    """(n, cells) bool: labels of start and goal, exchanged within donors.

    Where no donor has cells of both states, whole donors exchange their labels.

    Args:
        is_goal: (cells,) bool.
        donors: (cells,) codes; None exchanges cells freely.
        n: permutations.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    groups = np.zeros(len(is_goal), dtype=np.int64) if donors is None else donors
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    out = np.tile(is_goal, (n, 1))
    if any(0 < is_goal[cells].sum() < len(cells) for cells in members):
        for cells in members:
            out[:, cells] = rng.permuted(out[:, cells], axis=1)
        return out
    own = np.array([is_goal[cells[0]] for cells in members])
    for row in out:
        for cells, label in zip(members, rng.permutation(own), strict=True):
            row[cells] = label
    return out


def residuals(cells: pd.DataFrame, value: str = "shift", reference: np.ndarray | None = None) -> np.ndarray:
    """(rows,) each shift less the mean shift of other genes of the same cell and rank decile.

    What all perturbations share in a cell is thus removed, and with it what follows from the rank alone: a deletion
    high up moves every position below it.

    Args:
        cells: columns ``cell, rank, n`` and the value; ``rank`` from 0, ``n`` genes of the cell.
        value: the column.
        reference: (rows,) bool, the rows whose shifts are compared with; None for all. Where a decile has fewer than
            three of them, those of the whole cell are taken.
    """
    values = cells[value].to_numpy(dtype=float)
    taken = np.ones(len(cells), dtype=bool) if reference is None else reference
    decile = np.clip(DECILES * cells["rank"] // cells["n"].clip(lower=1), -1, DECILES - 1)
    means = _means_of_others(values, taken, cells.groupby(["cell", decile], sort=False).ngroup().to_numpy(), 3)
    whole = _means_of_others(values, taken, cells.groupby("cell", sort=False).ngroup().to_numpy(), 1)
    return values - np.where(np.isnan(means), whole, means)


def _means_of_others(values: np.ndarray, taken: np.ndarray, group: np.ndarray, fewest: int) -> np.ndarray:
    own, weight = np.where(taken, values, 0.0), taken.astype(float)
    total, count = np.bincount(group, own)[group] - own, np.bincount(group, weight)[group] - weight
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count >= fewest)


def unit_means(cells: pd.DataFrame, columns: list[str], *, donors: bool) -> pd.DataFrame:
    """Means by (gene, donor) where donors are the units, or the cells as they are; column ``gene`` is kept."""
    if not donors:
        return cells[["gene", *columns]]
    return cells.groupby(["gene", "donor"], observed=True)[columns].mean().reset_index()


def unit_test(values: np.ndarray, *, donors: bool) -> float:
    """Two-sided p that the mean of units is 0: signed rank, or t of two to five donors; NaN of one unit.

    Args:
        values: (units,) one for each donor, or each cell.
        donors: whether the units are donors.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2 or np.ptp(values) == 0:
        return float("nan")
    if donors and len(values) < SIGNED_RANK_DONORS:
        return float(stats.ttest_1samp(values, 0.0).pvalue)
    return float(stats.wilcoxon(values).pvalue) if np.any(values) else float("nan")


def matched_z(effect: np.ndarray, error: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(genes,) how far a gene's residual lies from those of other genes, in standard deviations.

    The variance has two parts: that between genes, tau^2, which random genes have as well (estimated robustly by the
    median absolute deviation less the median squared error), and the gene's own error. Cells alone would make every
    gene significant: a model gives each gene some small effect, the same in all cells.

    Args:
        effect: (genes,) mean residuals.
        error: (genes,) standard errors over units; NaN counts as 0.
        reference: (genes,) bool, the genes that stand for the null.
    """
    error = np.nan_to_num(error)
    own = effect[reference & np.isfinite(effect)]
    if len(own) < 3:
        return np.full(len(effect), np.nan)
    center = np.median(own)
    spread = (1.4826 * np.median(np.abs(own - center))) ** 2
    tau2 = max(spread - float(np.median(error[reference] ** 2)), 0.0)
    scale = np.sqrt(tau2 + error**2)
    return np.divide(effect - center, scale, out=np.full(len(effect), np.nan), where=scale > 0)


def permutation_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(genes,) two-sided (1 + #{|null| >= |observed|}) / (1 + K) of (genes,) against (genes, K)."""
    return (1 + (np.abs(null) >= np.abs(observed)[:, None]).sum(axis=1)) / (1 + null.shape[1])


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """False discovery rates (Benjamini & Hochberg, 1995) of the p values that are numbers; NaN stays."""
    out, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        out[tested] = stats.false_discovery_control(p[tested])
    return out


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; scores that are NaN stand last. NaN without both classes."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    ranks = stats.rankdata(np.where(np.isnan(score), -np.inf, score))
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Sum of precision times the gain of recall over thresholds, ties together; scores that are NaN stand last.

    NaN without a positive gene.
    """
    if not positive.any():
        return float("nan")
    values = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    found = np.cumsum(positive[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / positive.sum())


def bootstrap_interval(
    score: np.ndarray, positive: np.ndarray, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of :func:`auroc` over resampled genes, those of each class among themselves."""
    rng = np.random.default_rng(seed)
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    if len(yes) == 0 or len(no) == 0:
        return float("nan"), float("nan")
    truth = np.r_[np.ones(len(yes), bool), np.zeros(len(no), bool)]
    found = [auroc(score[np.r_[rng.choice(yes, len(yes)), rng.choice(no, len(no))]], truth) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def impact_component(means: np.ndarray, toward: Literal["low", "high"] = "low", seed: int = 0) -> np.ndarray:
    """(genes,) bool: the genes of the component with the lower (or higher) mean of a mixture of two Gaussians.

    A fit does not order its components; the published code takes its component 0, which is the wrong one about as
    often as not.
    """
    from sklearn.mixture import GaussianMixture

    fit = GaussianMixture(2, random_state=seed).fit(means[:, None])
    order = np.argsort(fit.means_[:, 0])
    return fit.predict(means[:, None]) == order[0 if toward == "low" else 1]
