"""How cells were named, and how sure of it the model was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scfm.plot.figure import COLORS, GRAY, INK, bare, categories, make_figure


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, *, title: str = "") -> Figure:
    """Rows: true classes, largest first, each summing to 1; columns: what their cells were called.

    Args:
        true: (B,) names.
        predicted: (B,) names; ``unknown`` comes last.
        title: above.

    Returns:
        The figure. Numbers are written into the cells up to 25 classes.
    """
    true, predicted = (np.array([str(value) for value in values]) for values in (true, predicted))
    rows, counts = np.unique(true, return_counts=True)
    rows = rows[np.argsort(-counts, kind="stable")]
    columns = [*rows, *(name for name in categories(predicted) if name not in set(rows))]
    table = pd.crosstab(true, predicted).reindex(index=rows, columns=columns, fill_value=0)
    shares = table.to_numpy() / np.maximum(table.to_numpy().sum(axis=1, keepdims=True), 1)
    cell = 0.46 if len(rows) <= 25 else 0.23
    shown = [name if len(name) <= 34 else f"{name[:31]}..." for name in columns]
    names = max(map(len, shown)) * 0.075 + 0.5
    figure = make_figure(max(5.0, cell * len(columns) + names + 1.0), max(3.6, cell * len(rows) + names))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    font = 9 if len(rows) <= 25 else 7
    axes.set_xticks(range(len(columns)), shown, rotation=45 if len(rows) <= 25 else 90, fontsize=font)
    for tick in axes.get_xticklabels():
        tick.set(ha="right" if len(rows) <= 25 else "center", rotation_mode="anchor" if len(rows) <= 25 else "default")
    axes.set_yticks(
        range(len(rows)),
        [f"{name} ({n})" for name, n in zip(shown[: len(rows)], table.sum(axis=1), strict=True)],
        fontsize=font,
    )
    axes.set_xlabel("called", fontsize=10)
    axes.set_ylabel("true (cells)", fontsize=10)
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.tick_params(length=0)
    if len(columns) <= 26:
        _write_shares(axes, shares)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    return figure


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            color = "white" if share > 0.55 else INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color)


def reliability_diagram(bins: np.ndarray, *, title: str = "") -> Figure:
    """Accuracy against confidence, and how many cells stand behind each point.

    Args:
        bins: (n, 3) mean confidence, share correct, cells (:func:`scfm.metrics.classification.reliability`).
        title: above.

    Returns:
        The figure.
    """
    figure = make_figure(4.6, 4.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = bins[:, 2] > 0
    above.plot([0, 1], [0, 1], color=GRAY, lw=1, ls="--", label="perfectly calibrated")
    above.plot(bins[filled, 0], bins[filled, 1], color=COLORS[0], marker="o", lw=1.6, label="cells")
    above.set(ylim=(0, 1.02), xlim=(0, 1.0), ylabel="share correct")
    above.set_title(title, fontsize=11, loc="left", color=INK)
    above.legend(fontsize=8.5, frameon=False, loc="upper left")
    width = 1 / len(bins)
    below.bar((np.arange(len(bins)) + 0.5) * width, bins[:, 2], width=width * 0.92, color=COLORS[4])
    below.set(xlabel="confidence", ylabel="cells")
    bare(above)
    bare(below)
    return figure


def rejection_curve(curves: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy of the named cells over the share that is named, by method; each curve (n, 2)."""
    figure = make_figure(5.4, 3.8)
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        kept = curve[curve[:, 0] >= 0.02]
        axes.plot(*kept.T, lw=1.7, color=COLORS[place % len(COLORS)], ls=("-", "--")[place // 8 % 2], label=name)
    axes.set(xlabel="share of cells named, surest first", ylabel="accuracy of the named", xlim=(0, 1))
    axes.legend(fontsize=8.5, frameon=False, loc="lower left")
    axes.grid(color="#EEEEEE")
    bare(axes)
    return figure
