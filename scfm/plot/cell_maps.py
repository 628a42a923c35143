"""Maps of cells."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from scfm.plot.figure import ABSENT, GRAY, INK, categories, make_figure, style

#: Lines of a legend that stand beside a map without pressing it flat, and inches of such a column.
ROWS_OF_LEGEND, LEGEND_WIDTH = 18, 2.1
#: A name stands on the map if it has this share of the cells and no more letters than that.
SMALLEST_NAMED, LONGEST_NAMED = 0.005, 22
#: Width and height of a letter, as shares of a map's width and height.
LETTER = (0.018, 0.042)


def draw_cells(
    axes: Axes,
    coordinates: np.ndarray,
    values: np.ndarray,
    title: str,
    *,
    legend: bool = True,
    names: Sequence[str] | None = None,
) -> None:
    """Cells on a map, colored by categories or by a number.

    Args:
        axes: to draw on.
        coordinates: (B, 2).
        values: (B,) names, or floats (NaN gray).
        title: above the map.
        legend: beside the map.
        names: all categories, in the order of their colors; None takes those that occur. The legend has those that
            occur.
    """
    size = float(np.clip(9000 / max(len(coordinates), 1), 2, 28))
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.spines[["top", "right"]].set_visible(False)
    if np.issubdtype(np.asarray(values).dtype, np.floating):
        _draw_number(axes, coordinates, values, size, legend)
        return
    names = categories(values) if names is None else names
    text = np.array([str(value) for value in values])
    order = np.random.default_rng(0).permutation(len(text))
    for place, name in reversed(list(enumerate(names))):
        rows = order[text[order] == name]
        axes.scatter(
            coordinates[rows, 0],
            coordinates[rows, 1],
            s=size,
            linewidths=0,
            alpha=0.75,
            rasterized=True,
            label=name,
            **style(place, name),
        )
    _write_names(axes, coordinates, text, names)
    if legend:
        _legend(axes, names, set(text))


def _write_names(axes: Axes, coordinates: np.ndarray, text: np.ndarray, names: Sequence[str]) -> None:
    """Names of categories in the middle of their cells, the largest first, as long as none covers another."""
    extent = np.ptp(coordinates, axis=0) if len(coordinates) else np.zeros(2)
    if not (extent > 0).all():
        return
    counted = sorted(((int((text == name).sum()), name) for name in names if name not in ABSENT), reverse=True)
    placed: list[np.ndarray] = []
    for n_cells, name in counted:
        if n_cells < len(text) * SMALLEST_NAMED or len(name) > LONGEST_NAMED:
            continue
        own = coordinates[text == name]
        middle = own[np.linalg.norm((own - np.median(own, axis=0)) / extent, axis=1).argmin()]
        half = extent * (len(name) * LETTER[0] / 2, LETTER[1] / 2)
        if any((np.abs(middle - other[0]) < half + other[1]).all() for other in placed):
            continue
        placed.append(np.stack([middle, half]))
        halo = [withStroke(linewidth=2.2, foreground="white")]
        axes.text(
            middle[0], middle[1], name, fontsize=7.5, color=INK, ha="center", va="center", path_effects=halo, zorder=5
        )


def _draw_number(axes: Axes, coordinates: np.ndarray, values: np.ndarray, size: float, legend: bool) -> None:
    known = np.isfinite(values)
    axes.scatter(coordinates[~known, 0], coordinates[~known, 1], s=size, linewidths=0, color=GRAY, rasterized=True)
    points = axes.scatter(
        coordinates[known, 0],
        coordinates[known, 1],
        s=size,
        c=values[known],
        cmap="viridis",
        linewidths=0,
        rasterized=True,
    )
    if legend:
        axes.figure.colorbar(points, ax=axes, shrink=0.7)


def _legend(axes: Axes, names: Sequence[str], present: set[str]) -> None:
    shown = [(i, name) for i, name in enumerate(names) if name in present]
    handles = [Line2D([], [], linestyle="", markersize=6, label=_wrapped(name), **style(i, name)) for i, name in shown]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        fontsize=8.5,
        frameon=False,
        ncols=_legend_columns([name for _, name in shown]),
        handletextpad=0.2,
        columnspacing=0.8,
        borderaxespad=0,
    )


def _legend_columns(names: Sequence[str]) -> int:
    lines = sum(1 + _wrapped(name).count("\n") for name in names)
    return max(1, -(-lines // ROWS_OF_LEGEND))


def _wrapped(name: str) -> str:
    """A name in at most two lines."""
    lines = textwrap.wrap(name, 30, break_long_words=True)
    return "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][:27]}..."])


def maps(coordinates: Mapping[str, np.ndarray], colorings: Mapping[str, np.ndarray]) -> Figure:
    """Embeddings side by side: a row for each coloring, a column for each embedding, one legend a row.

    Args:
        coordinates: (B, 2) by name of the embedding.
        colorings: (B,) names or floats by what they are.

    Returns:
        The figure.
    """
    n_rows, n_columns = len(colorings), len(coordinates)
    texts = [categories(v) for v in colorings.values() if not np.issubdtype(v.dtype, np.floating)]
    side = LEGEND_WIDTH * max((_legend_columns(names) for names in texts), default=1)
    figure = make_figure(4.1 * n_columns + side, 3.9 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    named = {what: set(categories(v)) for what, v in colorings.items() if not np.issubdtype(v.dtype, np.floating)}
    for row, (what, values) in zip(grid, colorings.items(), strict=True):
        names = _alike(named[what], list(named.values())) if what in named else None
        for axes, (name, points) in zip(row, coordinates.items(), strict=True):
            draw_cells(axes, points, values, f"{name}, by {what}", legend=axes is row[-1], names=names)
    return figure


def _alike(names: set[str], others: Sequence[set[str]]) -> list[str]:
    """The categories of all colorings that share a category with this one: a label and what was called so."""
    shared = [other for other in others if (other & names) - set(ABSENT)]
    return categories(np.array(sorted(set(names).union(*shared)), dtype=object))


def umap(coordinates: np.ndarray, values: np.ndarray, title: str) -> Figure:
    """One map of cells with its legend; see :func:`draw_cells`."""
    named = not np.issubdtype(np.asarray(values).dtype, np.floating)
    columns = _legend_columns(categories(values)) if named else 1
    figure = make_figure(5.1 + LEGEND_WIDTH * columns, 5.2)
    draw_cells(figure.subplots(), coordinates, values, title)
    return figure
