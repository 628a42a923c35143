"""The pictures that a run leaves beside its checkpoint."""

import logging
from pathlib import Path

import numpy as np
import torch

from scfm import plot
from scfm.data.module import CellData
from scfm.module import CellModule

log = logging.getLogger(__name__)


def draw_curves(output: Path) -> None:
    """``curves.png`` from the run's ``metrics.csv``."""
    metrics = output / "metrics.csv"
    if metrics.is_file():
        plot.save(plot.training_curves(metrics), output / "curves.png")


def draw_confusion(output: Path, module: CellModule, data: CellData) -> None:
    """``confusion_LABEL.png`` of the test cells (validation cells where there is no test) for a classifying head."""
    if not hasattr(module.task, "annotate"):
        return
    rows, part = (data.split.test, "test") if len(data.split.test) else (data.split.val, "validation")
    if len(rows) == 0:
        return
    module.eval()
    with torch.inference_mode():
        batches = [module.predict_step(batch.to(module.device), 0) for batch in data.loader(rows, alone=True)]
    outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    predicted = module.task.annotate(outputs)
    for label in (
        label for label in module.task.labels if data.store.categories(label) and f"scfm_{label}" in predicted
    ):
        names = np.array([*(data.store.categories(label) or ()), "(missing)"])
        true = names[data.store.obs(label)[outputs["index"].astype(np.int64)]]
        known = true != "(missing)"
        figure = plot.confusion_matrix(true[known], predicted[f"scfm_{label}"][known], title=f"{label}, {part} cells")
        plot.save(figure, output / f"confusion_{label}.png")
        log.info("Confusion matrix of the %s cells: %s", part, output / f"confusion_{label}.png")
