"""Numbers of two kinds of things: heat maps and dot plots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scfm.plot.figure import INK, make_figure


def heat_map(
    table: pd.DataFrame, *, title: str = "", label: str = "", diverging: bool = False, rows: str = "", columns: str = ""
) -> Figure:
    """A table of numbers as colors; NaN is white.

    Args:
        table: rows × columns.
        title: above.
        label: of the color bar.
        diverging: red above 0 and blue below, instead of white to blue.
        rows: what the rows are.
        columns: what the columns are.
    """
    values = table.to_numpy(dtype=float)
    width, height = (
        _room(names, count) for names, count in ((table.index, len(table.columns)), (table.columns, len(table)))
    )
    figure = make_figure(max(4.5, width + 1.2), max(3.2, height))
    axes = figure.subplots()
    largest = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    limits = {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"} if diverging else {"cmap": "Blues"}
    shown = axes.imshow(values, aspect="auto", interpolation="nearest", **limits)
    _name_axes(axes, table, rows, columns)
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    return figure


def dot_plot(color: pd.DataFrame, size: pd.DataFrame, *, color_label: str, size_label: str, title: str = "") -> Figure:
    """Dots of two numbers each; where either is NaN there is no dot.

    Args:
        color: rows × columns.
        size: of the same rows and columns, not negative.
        color_label: what the color is.
        size_label: what the area is.
        title: above.
    """
    figure = make_figure(
        max(5.0, _room(color.index, len(color.columns)) + 2.2), max(3.4, _room(color.columns, len(color)))
    )
    axes = figure.subplots()
    values, areas = color.to_numpy(dtype=float), size.to_numpy(dtype=float)
    row, column = np.nonzero(np.isfinite(values) & np.isfinite(areas))
    largest = float(np.nanmax(areas, initial=0)) or 1.0
    area = 12 + 130 * areas[row, column] / largest
    dots = axes.scatter(column, row, s=area, c=values[row, column], cmap="viridis", linewidths=0)
    axes.set(xlim=(-0.6, len(color.columns) - 0.4), ylim=(len(color) - 0.4, -0.6))
    _name_axes(axes, color, "", "")
    axes.grid(color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    figure.colorbar(dots, ax=axes, shrink=0.7, label=color_label)
    steps = sorted({largest, largest / 2, largest / 8})
    handles = [axes.scatter([], [], s=12 + 130 * step / largest, color=INK, label=f"{step:.3g}") for step in steps]
    axes.legend(
        handles=handles, title=size_label, fontsize=8, title_fontsize=8, frameon=False, loc="upper left",
        bbox_to_anchor=(0, -0.02 if len(color) > 12 else -0.1), ncols=3,
    )  # fmt: skip
    axes.xaxis.tick_top()
    for tick in axes.get_xticklabels():
        tick.set(ha="left")
    return figure


def _room(names: pd.Index, count: int) -> float:
    """Inches for ``count`` steps and for names beside them."""
    longest = max((len(str(name)) for name in names), default=1)
    return 0.27 * count + 0.085 * longest + 0.9


def _name_axes(axes: Axes, table: pd.DataFrame, rows: str, columns: str) -> None:
    axes.set_xticks(range(len(table.columns)), [str(name) for name in table.columns], rotation=55, fontsize=8)
    for tick in axes.get_xticklabels():
        tick.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(table)), [str(name) for name in table.index], fontsize=8)
    axes.set(xlabel=columns, ylabel=rows)
    axes.spines[["top", "right"]].set_visible(False)
