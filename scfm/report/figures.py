"""Matplotlib figures inside a page."""

from pathlib import Path

from matplotlib.figure import Figure

from scfm import plot
from scfm.page import image


def picture(figure: Figure, caption: str, path: Path | None = None) -> str:
    """A figure with its caption, as HTML; where a path is given, also as PNG, and its numbers as CSV beside that."""
    png = plot.render(figure)
    if path is not None:
        plot.write(png, path)
        plot.save_numbers(figure, path.with_suffix(".csv"))
    return image(png, caption, round(figure.get_size_inches()[0] * 96))
