"""Genes by an effect: volcano, ranking with intervals, two scores of the same genes, genes by group."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from scfm.plot.figure import COLORS, GRAY, INK, bare, make_figure

#: Genes whose names are written.
NAMED = 12


def volcano(effect: np.ndarray, p: np.ndarray, names: np.ndarray, *, called: np.ndarray, label: str) -> Figure:
    """Effects against -log10 p; called genes in color, the first of them by p named.

    Args:
        effect: (genes,).
        p: (genes,), NaN is left out.
        names: (genes,).
        called: (genes,) bool.
        label: of the axis of effects.
    """
    figure = make_figure(6.0, 4.4)
    axes = figure.subplots()
    shown = np.isfinite(p) & np.isfinite(effect)
    height = -np.log10(np.maximum(p, 1e-300))
    for chosen, color in ((shown & ~called, GRAY), (shown & called, COLORS[0])):
        axes.scatter(effect[chosen], height[chosen], s=9, color=color, linewidths=0, rasterized=True)
    order = np.flatnonzero(shown)[np.argsort(-height[shown], kind="stable")][:NAMED]
    for i in order:
        axes.annotate(str(names[i]), (effect[i], height[i]), fontsize=7.5, color=INK, xytext=(3, 2),
                      textcoords="offset points")  # fmt: skip
    axes.axvline(0, color=GRAY, lw=0.8, zorder=0)
    axes.set(xlabel=label, ylabel="-log10 p")
    bare(axes)
    return figure


def ranked_effects(names: np.ndarray, effect: np.ndarray, error: np.ndarray, *, label: str, most: int = 15) -> Figure:
    """The genes with the largest effects of either sign, with 95 % intervals.

    Args:
        names: (genes,).
        effect: (genes,).
        error: (genes,) standard errors; NaN draws none.
        label: of the axis.
        most: genes of each end.
    """
    order = np.flatnonzero(np.isfinite(effect))[np.argsort(effect[np.isfinite(effect)], kind="stable")]
    chosen = order if len(order) <= 2 * most else np.r_[order[:most], order[-most:]]
    figure = make_figure(5.6, max(2.0, 0.9 + 0.21 * len(chosen)))
    axes = figure.subplots()
    reach = 1.96 * np.nan_to_num(error[chosen])
    axes.errorbar(effect[chosen], range(len(chosen)), xerr=reach, fmt="o", ms=3.5, lw=1.2, color=COLORS[0])
    axes.axvline(0, color=GRAY, lw=0.8, zorder=0)
    axes.set_yticks(range(len(chosen)), [str(names[i]) for i in chosen], fontsize=8)
    axes.set_xlabel(label)
    bare(axes)
    return figure


def compare_effects(one: np.ndarray, other: np.ndarray, names: np.ndarray, *, labels: tuple[str, str]) -> Figure:
    """Two scores of the same genes, with their rank correlation; the farthest are named."""
    figure = make_figure(5.0, 4.2)
    axes = figure.subplots()
    shown = np.isfinite(one) & np.isfinite(other)
    x, y, text = one[shown], other[shown], names[shown]
    axes.scatter(x, y, s=9, color=COLORS[0], linewidths=0, alpha=0.6, rasterized=True)
    for i in np.argsort(-np.abs(y), kind="stable")[:NAMED]:
        axes.annotate(str(text[i]), (x[i], y[i]), fontsize=7.5, xytext=(3, 2), textcoords="offset points")
    rho = stats.spearmanr(x, y).statistic if len(x) > 2 else np.nan
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.set_title(f"Spearman {rho:.2f}, {len(x):,} genes", fontsize=10, loc="left", color=INK)
    bare(axes)
    return figure


def gene_heat_map(table: pd.DataFrame, *, label: str) -> Figure:
    """Genes × groups, colors around 0; missing pairs stay white.

    Args:
        table: effects, genes by row.
        label: of the color bar.
    """
    values = table.to_numpy(dtype=float)
    reach = float(np.nanmax(np.abs(values), initial=1e-12))
    figure = make_figure(2.6 + 0.42 * table.shape[1], 1.4 + 0.21 * len(table))
    axes = figure.subplots()
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_xticks(range(table.shape[1]), [str(name) for name in table], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(table)), [str(name) for name in table.index], fontsize=8)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.6)
    return figure
