"""The pictures that a run leaves beside its checkpoint."""

from pathlib import Path

from scfm import plot


def draw_curves(output: Path) -> None:
    """``curves.png`` from the run's ``metrics.csv``."""
    metrics = output / "metrics.csv"
    if metrics.is_file():
        plot.save(plot.training_curves(metrics), output / "curves.png")
