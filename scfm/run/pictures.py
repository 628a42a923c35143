"""The pictures that a run leaves beside its checkpoint."""

import logging
from pathlib import Path

import numpy as np

from scfm import plot
from scfm.data.module import CellData
from scfm.run.finish import Finished

log = logging.getLogger(__name__)


def draw_curves(output: Path) -> None:
    """``curves.png`` from the run's ``metrics.csv``."""
    metrics = output / "metrics.csv"
    if metrics.is_file():
        plot.save(plot.training_curves(metrics), output / "curves.png")


def draw_confusion(output: Path, done: Finished, data: CellData) -> None:
    """``confusion_LABEL.png`` of the test cells (validation cells where there is no test) for a classifying head."""
    task = done.module.task
    if not hasattr(task, "annotate") or len(done.judged) == 0:
        return
    predicted = task.annotate(done.outputs)
    for label in (label for label in task.labels if data.store.categories(label) and f"scfm_{label}" in predicted):
        names = np.array([*(data.store.categories(label) or ()), "(missing)"])
        true = names[data.store.obs(label)[done.judged]]
        known = true != "(missing)"
        title = f"{label}, {done.part} cells"
        figure = plot.confusion_matrix(true[known], predicted[f"scfm_{label}"][known], title=title)
        plot.save(figure, output / f"confusion_{label}.png")
        log.info("Confusion matrix of the %s cells: %s", done.part, output / f"confusion_{label}.png")
