"""A few directed edges between genes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from scfm.plot.figure import COLORS, INK, make_figure


def gene_circle(edges: pd.DataFrame, *, title: str = "") -> Figure:
    """Genes on a circle and arrows from source to target; a source has one color, its targets lie near it.

    Args:
        edges: columns ``source, target, weight``, the strongest first; wider arrows are stronger.
        title: above.
    """
    sources = list(pd.unique(edges["source"]))
    ordered = list(dict.fromkeys(gene for _, own in edges.groupby("source", sort=False) for gene in _with_targets(own)))
    angle = {gene: 2 * np.pi * place / max(len(ordered), 1) for place, gene in enumerate(ordered)}
    figure = make_figure(7.2, 7.2)
    axes = figure.subplots()
    weight = edges["weight"].to_numpy(dtype=float)
    low, high = (weight.min(), weight.max()) if len(weight) else (0.0, 1.0)
    widths = 0.6 + 2.4 * (weight - low) / max(high - low, 1e-12)
    for source, target, width in zip(edges["source"], edges["target"], widths, strict=True):
        start, end = ((np.cos(angle[gene]), np.sin(angle[gene])) for gene in (source, target))
        color = COLORS[sources.index(source) % len(COLORS)]
        arrow = FancyArrowPatch(
            start, end, color=color, lw=width, alpha=0.75, connectionstyle="arc3,rad=0.18", arrowstyle="-|>",
            mutation_scale=9, shrinkA=4, shrinkB=5,
        )  # fmt: skip
        axes.add_patch(arrow)
    for gene, at in angle.items():
        known = gene in sources
        axes.scatter(np.cos(at), np.sin(at), s=26 if known else 14, color=INK, zorder=3)
        flip = np.pi / 2 < at < 3 * np.pi / 2
        axes.text(
            1.05 * np.cos(at), 1.05 * np.sin(at), gene, fontsize=8, fontweight="bold" if known else "normal",
            rotation=np.degrees(at) + (180 if flip else 0), rotation_mode="anchor", va="center",
            ha="right" if flip else "left",
        )  # fmt: skip
    axes.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), aspect="equal")
    axes.axis("off")
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    return figure


def _with_targets(own: pd.DataFrame) -> list[str]:
    return [str(own["source"].iloc[0]), *own["target"].astype(str)]
