"""The pictures that a run leaves beside its checkpoint."""

from pathlib import Path


def draw_curves(output: Path) -> None:
    """``curves.png`` from the run's ``metrics.csv``."""
    metrics = output / "metrics.csv"
    if metrics.is_file():
        from scfm import plot  # matplotlib takes a second to import, and a run begins without pictures

        figure = plot.training_curves(metrics)
        plot.save(figure, output / "curves.png")
        plot.save_numbers(figure, output / "curves.csv")
