"""Is attention more than noise? Deletion, the null of permuted labels, mass by type, two seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

#: Two seeds that agree less are called unstable.
STABLE = 0.5


def mean_interval(values: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of the finite values and its 95 % interval by resampling them."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = kept[rng.integers(0, len(kept), (draws, len(kept)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(kept.mean()), float(low), float(high)


def deletion_table(falls: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """What taking out a tenth of the cells costs, beside random tenths and networks of permuted labels.

    Args:
        falls: (M, S, 2) of :class:`~scfm.analysis.phenotypes.crossfit.Heldout`; the true labels first.
        seed: of the resamples.

    Returns:
        Rows ``top tenth``, ``random tenth``, ``excess``, ``excess, permuted labels``: mean over held-out samples with
        its interval; of the last, mean and quantiles over permutations, and p of the excess.
    """
    excess = falls[..., 0] - falls[..., 1]
    rows = []
    for name, values in (("top tenth", falls[0, :, 0]), ("random tenth", falls[0, :, 1]), ("excess", excess[0])):
        rows.append((name, *mean_interval(values, seed=seed), float("nan")))
    null = excess[1:].mean(axis=1)
    if len(null):
        p = (1 + (null >= excess[0].mean()).sum()) / (1 + len(null))
        low, high = np.quantile(null, [0.025, 0.975])
        rows.append(("excess, permuted labels", float(null.mean()), float(low), float(high), float(p)))
    return pd.DataFrame(rows, columns=["cells", "fall", "low", "high", "p"])


def type_table(attention: np.ndarray, types: np.ndarray, place: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Attention mass of each type over its share of the cells: mean over held-out samples, with its interval.

    Args:
        attention: (n,) of which the mean of a sample's cells is 1.
        types: (n,) names, "" where missing.
        place: (n,) sample of each cell.
        seed: of the resamples.
    """
    rows = []
    for name in np.unique(types[types != ""].astype(str)):
        own = types == name
        samples = np.unique(place[own])
        ratios = np.array([attention[own & (place == sample)].mean() for sample in samples])
        rows.append((name, int(own.sum()), len(samples), *mean_interval(ratios, seed=seed)))
    frame = pd.DataFrame(rows, columns=["type", "cells", "samples", "ratio", "low", "high"])
    return frame.sort_values("ratio", ascending=False, ignore_index=True)


def agreement(attention: np.ndarray, other: np.ndarray, place: np.ndarray) -> float:
    """Mean over samples of Spearman's correlation of two seeds' attention; NaN where it is constant."""
    found = []
    for sample in np.unique(place):
        own = place == sample
        if np.ptp(attention[own]) > 1e-9 and np.ptp(other[own]) > 1e-9:
            found.append(spearmanr(attention[own], other[own]).statistic)
    return float(np.mean(found)) if found else float("nan")
