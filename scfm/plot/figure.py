"""What all pictures share: colors, size, how they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scfm.io import atomic_write

#: The first eight are told apart by color-blind readers (Okabe & Ito 2008); each further one is the color that is
#: farthest in CIELAB from all before it (at least 30), not too pale, dark or bright.
COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#A8A100", "#5B4FA2",
    "#5A4B1E", "#C3003C", "#87E169", "#FFA587", "#E187FF", "#960087", "#0F5A5A", "#2D7800",
    "#3CE1E1", "#96A569", "#873C3C", "#C3B4FF", "#0087FF", "#FF5AB4", "#694B69", "#966900",
)  # fmt: skip
#: Categories of one marker.
PER_MARKER = 8
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")
GRAY, INK = "#BDBDBD", "#222222"
ABSENT = ("unknown", "(missing)", "nan")


def make_figure(width: float, height: float) -> Figure:
    """An empty figure of the house style, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, dpi: int = 150) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def write(png: bytes, path: str | Path) -> Path:
    """Write a picture; a half-written file never has the final name."""
    with atomic_write(path) as part:
        part.write_bytes(png)
    return Path(path)


def save(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure as PNG."""
    return write(render(figure, dpi), path)


def bare(axes: Axes) -> None:
    """Without the upper and the right line."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def categories(values: np.ndarray) -> list[str]:
    """Names, the absent ones last."""
    names = sorted({str(value) for value in values}, key=str.casefold)
    return [name for name in names if name not in ABSENT] + [name for name in names if name in ABSENT]


def style(place: int, name: str) -> dict[str, Any]:
    """Color and marker of the category at a place among its kind: 24 colors, and no two of 240 share both."""
    if name in ABSENT:
        return {"color": GRAY, "marker": "o"}
    return {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place // PER_MARKER % len(MARKERS)]}
