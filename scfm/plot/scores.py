"""Scores of methods, and orderings of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from scfm.plot.figure import COLORS, GRAY, INK, bare, make_figure


def stage_violins(pseudotime: np.ndarray, stage: np.ndarray, order: Sequence[str], *, title: str = "") -> Figure:
    """Distribution of pseudotime in each stage, in the stages' order; cells without pseudotime are left out.

    Args:
        pseudotime: (B,) floats.
        stage: (B,) names.
        order: the stages from first to last.
        title: above.

    Returns:
        The figure; quartiles are marked, the number of cells stands under each name.
    """
    text = np.array([str(value) for value in stage])
    parts = {name: pseudotime[(text == name) & np.isfinite(pseudotime)] for name in order}
    parts = {name: values for name, values in parts.items() if len(values)}
    figure = make_figure(max(4.5, 0.95 * len(parts) + 1.2), 4.2)
    axes = figure.subplots()
    for place, values in enumerate(parts.values()):
        if len(values) > 1 and np.ptp(values) > 0:
            drawn: Any = axes.violinplot(values, [place], widths=0.85, showextrema=False)["bodies"]
            drawn[0].set(facecolor=colormaps["viridis"](place / max(len(parts) - 1, 1)), alpha=0.75, edgecolor="none")
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        axes.vlines(place, low, high, color=INK, lw=2.5)
        axes.scatter(place, middle, color="white", edgecolor=INK, s=26, zorder=3)
    axes.set_xticks(range(len(parts)), [f"{name}\n{len(values)}" for name, values in parts.items()], fontsize=9)
    for tick in axes.get_xticklabels():
        tick.set(rotation=30 if len(parts) > 5 else 0, ha="right" if len(parts) > 5 else "center")
    axes.set_ylabel("pseudotime")
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    bare(axes)
    return figure


def score_bars(
    table: pd.DataFrame, *, highlight: str = "", errors: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Scores of methods as bars, one panel for each column, sorted by the first, the highlighted method in color.

    Args:
        table: methods × metrics, in [0, 1] or near.
        highlight: the method in question.
        errors: interval (low, high) of the first column by method.

    Returns:
        The figure.
    """
    table = table.sort_values(table.columns[0], na_position="first")
    figure = make_figure(2.1 + 2.6 * table.shape[1], 0.9 + 0.34 * len(table))
    grid = figure.subplots(1, table.shape[1], sharey=True, squeeze=False)[0]
    colors = [COLORS[0] if name == highlight else GRAY for name in table.index]
    for place, (axes, metric) in enumerate(zip(grid, table.columns, strict=True)):
        values = table[metric].to_numpy(dtype=float)
        axes.barh(range(len(table)), np.nan_to_num(values), color=colors, height=0.7)
        for row, (name, value) in enumerate(zip(table.index, values, strict=True)):
            end = np.nan_to_num(value)
            if place == 0 and errors and name in errors:
                low, high = errors[name]
                axes.plot([low, high], [row, row], color=INK, lw=1.4)
                end = max(end, high)
            text = "n/a" if np.isnan(value) else f"{value:.3f}"
            axes.text(max(end, 0) + 0.02, row, text, va="center", fontsize=8.5, color=INK)
        axes.set_xlim(min(0, np.nanmin(values, initial=0)), 1.2)
        axes.set_xticks([0, 0.5, 1])
        axes.set_title(metric.replace("_", " "), fontsize=10, loc="left", color=INK)
        bare(axes)
    grid[0].set_yticks(range(len(table)), table.index, fontsize=9)
    return figure


def shot_curves(shots: pd.DataFrame) -> Figure:
    """Macro-F1 over the share of the labels that was learned from.

    Args:
        shots: columns ``method, share, seed, macro_f1``.

    Returns:
        The figure: the mean of each method, and the range of its draws as a band.
    """
    figure = make_figure(6.4, 4.0)
    axes = figure.subplots()
    for place, (name, own) in enumerate(shots.groupby("method", sort=False)):
        summary = own.groupby("share")["macro_f1"].agg(["mean", "min", "max"])
        color = COLORS[place % len(COLORS)]
        axes.plot(summary.index, summary["mean"], color=color, marker="o", ms=4, lw=1.6, label=str(name))
        axes.fill_between(summary.index, summary["min"], summary["max"], color=color, alpha=0.12, lw=0)
    axes.set(xlabel="share of the training labels", ylabel="macro-F1 on the test cells", ylim=(None, 1.0))
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.grid(color="#EEEEEE")
    bare(axes)
    return figure
