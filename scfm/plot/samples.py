"""Samples and the attention of their cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scfm.plot.figure import COLORS, GRAY, INK, bare, make_figure


def attention_histogram(attention: np.ndarray, *, title: str = "") -> Figure:
    """How evenly attention lies over cells.

    Args:
        attention: (n,) of which the mean of a sample is 1.
        title: above.
    """
    figure = make_figure(4.8, 3.2)
    axes = figure.subplots()
    axes.hist(attention, bins=40, color=COLORS[0])
    axes.axvline(1, color=GRAY, ls="--", lw=1)
    axes.set(xlabel="attention (1 = average cell)", ylabel="cells")
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    bare(axes)
    return figure


def roc_curves(
    truth: np.ndarray, scores: Mapping[str, np.ndarray], names: Mapping[str, str], *, draws: int = 200, seed: int = 0
) -> Figure:
    """ROC curves of held-out samples by method, with the bootstrap band of the first.

    Args:
        truth: (S,) bool.
        scores: (S,) by method.
        names: what each method is called in the legend.
        draws: resamples of the band.
        seed: of the resamples.
    """
    figure = make_figure(5.0, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GRAY, lw=1, ls="--")
    grid, rng = np.linspace(0, 1, 101), np.random.default_rng(seed)
    for place, (name, score) in enumerate(scores.items()):
        axes.plot(grid, _roc(truth, score, grid), color=COLORS[place % len(COLORS)], lw=1.8, label=names[name])
        if place == 0:
            drawn = [rng.integers(0, len(truth), len(truth)) for _ in range(draws)]
            curves = [_roc(truth[rows], score[rows], grid) for rows in drawn if 0 < truth[rows].sum() < len(rows)]
            if curves:
                low, high = np.quantile(curves, [0.025, 0.975], axis=0)
                axes.fill_between(grid, low, high, color=COLORS[0], alpha=0.12, lw=0)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    bare(axes)
    return figure


def _roc(truth: np.ndarray, score: np.ndarray, grid: np.ndarray) -> np.ndarray:
    order = np.argsort(-score, kind="stable")
    hits = np.concatenate([[0], np.cumsum(truth[order])]) / max(truth.sum(), 1)
    false = np.concatenate([[0], np.cumsum(~truth[order])]) / max((~truth).sum(), 1)
    return np.interp(grid, false, hits)


def attention_by_type(table: pd.DataFrame) -> Figure:
    """The mass of attention of each type over its share of the cells, with intervals over samples.

    Args:
        table: rows ``type``, ``ratio``, ``low``, ``high``.
    """
    figure = make_figure(5.4, max(2.4, 0.34 * len(table) + 1.0))
    axes = figure.subplots()
    rows = table.iloc[::-1]
    place = np.arange(len(rows))
    axes.axvline(1, color=GRAY, ls="--", lw=1)
    axes.hlines(place, rows["low"], rows["high"], color=COLORS[0], lw=2)
    axes.scatter(rows["ratio"], place, color=COLORS[0], zorder=3)
    axes.set_yticks(place, rows["type"], fontsize=9)
    axes.set_xlabel("attention over share of cells (1 = even)")
    bare(axes)
    return figure
