"""Genes along pseudotime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from scfm.plot.figure import COLORS, bare, make_figure

#: Points of a smoothed curve.
POINTS = 100


def smooth(time: np.ndarray, values: np.ndarray, width: float = 0.08) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian-weighted means along pseudotime, over the cells' ranks so that no stretch is empty.

    Args:
        time: (B,) finite.
        values: (B, G).
        width: standard deviation of the weights, as a share of the cells.

    Returns:
        (P,) pseudotimes and (P, G) means at them.
    """
    rank = (rankdata(time) - 0.5) / len(time)
    at = (np.arange(POINTS) + 0.5) / POINTS
    weight = np.exp(-0.5 * ((at[:, None] - rank) / width) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.quantile(time, at), weight @ values


def gene_trends(time: np.ndarray, values: np.ndarray, genes: Sequence[str]) -> Figure:
    """Smoothed expression along pseudotime, each gene over its largest smoothed value.

    Args:
        time: (B,) pseudotime; cells without one (NaN) are left out.
        values: (B, G) expression.
        genes: their names.

    Returns:
        The figure; the genes that come first in the list have full lines, the second half dashed ones.
    """
    known = np.isfinite(time)
    at, means = smooth(time[known], np.asarray(values, dtype=np.float64)[known])
    figure = make_figure(5.6, 4.2)
    axes = figure.subplots()
    half = -(-len(genes) // 2)
    for place, gene in enumerate(genes):
        curve = means[:, place] / max(means[:, place].max(), 1e-12)
        color = COLORS[place % half % len(COLORS)]
        axes.plot(at, curve, color=color, ls="-" if place < half else "--", lw=1.8, label=gene)
    axes.set(xlabel="pseudotime", ylabel="expression over its largest", ylim=(0, 1.05))
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    bare(axes)
    return figure
