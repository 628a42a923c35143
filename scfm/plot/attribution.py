"""What a label loses when genes are taken out."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from scfm.plot.figure import COLORS, GRAY, bare, make_figure


def deletion_curves(falls: pd.DataFrame) -> Figure:
    """Mean fall over the number of genes taken out, a line for each score, random genes of the same ranks in gray.

    Args:
        falls: columns ``score, genes, fall, random, excess, low, high``.
    """
    figure = make_figure(6.8, 4.0)
    axes = figure.subplots()
    for place, (name, own) in enumerate(falls.groupby("score", sort=False)):
        color = COLORS[place % len(COLORS)]
        axes.plot(own["genes"], own["fall"], color=color, marker="o", ms=4, lw=1.6, label=str(name).replace("_", " "))
        low, high = own["random"] + own["low"], own["random"] + own["high"]
        axes.fill_between(own["genes"], low, high, color=color, alpha=0.13, lw=0)
        label = "random, same ranks" if place == 0 else None
        axes.plot(own["genes"], own["random"], color=GRAY, lw=1.0, ls="--", label=label)
    axes.set(xlabel="genes taken out", ylabel="fall of the log odds", xscale="log")
    sizes = sorted(falls["genes"].unique())
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.grid(color="#EEEEEE")
    bare(axes)
    return figure
