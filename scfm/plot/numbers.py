"""The numbers that a picture shows, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from scfm.io import atomic_write


def figure_numbers(figure: Figure) -> pd.DataFrame:
    """Everything that is drawn by numbers: points, lines, bars, the cells of a matrix, the outline of a violin.

    Args:
        figure: drawn by this package.

    Returns:
        ``panel`` (its title), ``kind``, ``series`` (label), ``x``, ``y``, ``value`` (of colored points and matrices;
        NaN elsewhere). Where an axis has names, ``x`` and ``y`` are these.
    """
    frames = [frame for axes in figure.axes for frame in _axes_numbers(axes)]
    columns = ["panel", "kind", "series", "x", "y", "value"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def save_numbers(figure: Figure, path: str | Path) -> Path:
    """Write :func:`figure_numbers` as CSV; floats with six digits."""
    with atomic_write(path) as part:
        figure_numbers(figure).to_csv(part, index=False, float_format="%.6g")
    return Path(path)


def _axes_numbers(axes: Axes) -> Iterator[pd.DataFrame]:
    if axes.get_label() == "<colorbar>":
        return
    panel = axes.get_title(loc="left") or axes.get_title() or axes.get_ylabel()
    names = [_names(axis.get_ticklocs(), axis.get_ticklabels()) for axis in (axes.xaxis, axes.yaxis)]
    for kind, series, x, y, value in _drawn(axes):
        yield pd.DataFrame(
            {
                "panel": panel, "kind": kind, "series": "" if series.startswith("_") else series,
                "x": _named(x, names[0]), "y": _named(y, names[1]), "value": value,
            }
        )  # fmt: skip


#: Kind, series, x, y and value of what is drawn at once.
Drawn = tuple[str, str, np.ndarray, np.ndarray, np.ndarray]


def _drawn(axes: Axes) -> Iterator[Drawn]:
    for line in axes.lines:
        x, y = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
        yield "line", str(line.get_label()), x, y, _nothing(x)
    for drawn in axes.collections:
        label = str(drawn.get_label())
        if isinstance(drawn, PathCollection):
            points, values = np.ma.getdata(drawn.get_offsets()), drawn.get_array()
            value = _nothing(points) if values is None else np.asarray(values, dtype=float)
            yield "points", label, points[:, 0], points[:, 1], value
        elif isinstance(drawn, PolyCollection):
            for outline in drawn.get_paths():
                corners = np.asarray(outline.vertices)
                yield "outline", label, corners[:, 0], corners[:, 1], _nothing(corners)
    yield from (_bars(bars) for bars in axes.containers if isinstance(bars, BarContainer))
    for image in axes.images:
        values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
        rows, columns = np.indices(values.shape[:2]).reshape(2, -1)
        yield "matrix", "", columns.astype(float), rows.astype(float), values.reshape(len(rows), -1)[:, 0]


def _bars(bars: BarContainer) -> Drawn:
    """Ends of the bars along one axis, their middles along the other."""
    boxes = [patch.get_bbox() for patch in bars.patches]
    lying = bars.orientation == "horizontal"
    x = np.array([box.x1 if lying else (box.x0 + box.x1) / 2 for box in boxes])
    y = np.array([(box.y0 + box.y1) / 2 if lying else box.y1 for box in boxes])
    return "bars", str(bars.get_label()), x, y, _nothing(x)


def _nothing(points: np.ndarray) -> np.ndarray:
    return np.full(len(points), np.nan)


def _names(places: np.ndarray, labels: list) -> dict[float, str]:
    """Names at places of an axis; none where the labels are numbers."""
    texts = {float(place): label.get_text() for place, label in zip(places, labels, strict=False)}
    return texts if any(not _is_number(text) for text in texts.values() if text) else {}


def _is_number(text: str) -> bool:
    try:
        float(text.replace("−", "-").replace("$\\mathdefault{", "").replace("}$", ""))
    except ValueError:
        return "{" in text or "^" in text  # a power of ten
    return True


def _named(values: np.ndarray, names: dict[float, str]) -> np.ndarray:
    if not names or not set(np.round(values, 6)) <= set(names):
        return values
    return np.array([names[float(value)] for value in np.round(values, 6)], dtype=object)
