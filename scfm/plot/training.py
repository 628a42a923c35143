"""What happened during training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scfm.plot.figure import COLORS, INK, bare, make_figure


def training_curves(metrics: str | Path) -> Figure:
    """Every logged quantity over optimizer steps: training, held-out and the unigram table's in one panel.

    Args:
        metrics: Lightning's ``metrics.csv`` (columns ``step``, ``train/loss``, ``val/loss``, ...).

    Returns:
        The figure; loss first.

    Raises:
        ValueError: the file has no step column or no numbers.
    """
    table = pd.read_csv(metrics)
    if "step" not in table:
        raise ValueError(f"{metrics} has no column step; expected the metrics.csv of a training run")
    logged = [name for name in table.columns if name.startswith(("train/", "val/")) and table[name].notna().any()]
    quantities = {name.split("/", 1)[1] for name in logged if "/unigram_" not in name}
    panels = sorted(quantities, key=lambda name: (name != "loss", name))
    if not panels:
        raise ValueError(f"{metrics} holds no numbers yet; train for at least one logging interval")
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = make_figure(4.4 * n_columns, 2.9 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _curve(axes, table, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _curve(axes: Axes, table: pd.DataFrame, panel: str) -> None:
    for place, (stage, label) in enumerate((("train", "training"), ("val", "validation"))):
        name = f"{stage}/{panel}"
        if name not in table or table[name].isna().all():
            continue
        part = table[["step", name]].dropna()
        marker = "o" if len(part) <= 30 else None
        axes.plot(part["step"], part[name], color=COLORS[place], lw=1.6, marker=marker, ms=3.5, label=label)
    unigram = f"val/unigram_{panel}"
    if unigram in table and table[unigram].notna().any():
        axes.axhline(table[unigram].dropna().iloc[-1], color=INK, ls="--", lw=1.2, label="unigram table")
    axes.set_title(panel.replace("_", " "), fontsize=11, loc="left", color=INK)
    axes.set_xlabel("optimizer step", fontsize=9)
    axes.grid(color="#EEEEEE")
    axes.set_axisbelow(True)
    if axes.lines:
        axes.legend(fontsize=8.5, frameon=False)
    bare(axes)
