"""The end of a fine-tune: refit and calibrate the best head, and measure it as it will be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scfm.checkpoint import read
from scfm.data.module import CellData
from scfm.head.annotation.label_layer import UNKNOWN
from scfm.head.base import TRAINED, Head
from scfm.inference.load import restore_predictor
from scfm.inference.predict import predictions, targets
from scfm.inference.write import store_columns
from scfm.module import CellModule
from scfm.training.stored_head import update_head

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A fine-tuned head as its checkpoint holds it.

    Attributes:
        path: the checkpoint.
        module: the module restored from it.
        config: of the run, as the checkpoint holds it.
        metrics: those of the head as shipped, ``val/...``, ``test/...`` and ``calibration/...``.
        judged: rows of the cells it is shown on: the test cells, or those of validation where there is no test.
        part: the name of that part.
        outputs: the head's predictions for them, (n, ...) by name, with their ``embedding``.
    """

    path: Path
    module: CellModule
    config: Mapping[str, Any]
    metrics: dict[str, float]
    judged: np.ndarray
    part: str
    outputs: dict[str, np.ndarray]


def finish(path: Path, data: CellData, device: torch.device) -> Finished:
    """Fit to whole sets what training fitted batch by batch: the last layer to labeled cells, thresholds to others.

    Prototypes and linear classifiers are refitted on the training cells and, where there are test cells, on those of
    validation too, which are not needed once they have chosen the step. Temperature and rejection thresholds are fitted
    on ``data.split.calibration``, which nothing has used until then; the head is then refitted on these cells too. The
    head is written into the checkpoint, which keeps the head as it was trained: a run that is stopped here and resumed
    comes to the same end. The metrics of the test cells are computed again; those of validation stay as they were when
    the step was chosen.

    Args:
        path: checkpoint of the best step.
        data: the store and its split.
        device: where to compute.
    """
    checkpoint = read(path, trained=True)
    module = restore_predictor(checkpoint).to(device)
    part = "test" if len(data.split.test) else "val"
    judged = data.split.test if part == "test" else data.split.val
    known = [data.split.train, *([data.split.val] if part == "test" else [])]
    refitted = _refit(module, data, known, first=True)
    before = _scores(module.task, predictions(module, data, judged), data, judged)
    metrics = _calibrate(module, data)
    if metrics:
        _refit(module, data, [*known, data.split.calibration])
    outputs = predictions(module, data, judged)
    if refitted or metrics:
        update_head(path, module.task, keep_trained=True)
        after = _scores(module.task, outputs, data, judged)
        if metrics and len(judged):
            after |= {f"{name}_uncalibrated": value for name, value in before.items() if name.split("/")[0] == "ece"}
            after |= _coverage(module.task, outputs, data, judged)
        metrics |= {f"{part}/{name}": float(value) for name, value in after.items()}
    named = "test" if part == "test" else "validation"
    return Finished(path, module, checkpoint.config, metrics, judged, named, outputs)


def _refit(module: CellModule, data: CellData, parts: list[np.ndarray], *, first: bool = False) -> bool:
    """Refit the head on these parts of the cells (:meth:`Head.refit`); whether it has that hook."""
    if "refit" not in module.task.hooks:
        return False
    rows = np.sort(np.concatenate(parts))
    outputs = predictions(module, data, rows)
    if first:
        outputs[TRAINED] = np.isin(rows, data.split.train)
    module.task.refit(outputs, targets(data, rows))
    return True


def _calibrate(module: CellModule, data: CellData) -> dict[str, float]:
    """``calibration/...``; nothing where there is nothing to calibrate, or no cell to do so."""
    rows = data.split.calibration
    if "calibrate" not in module.task.hooks or len(rows) == 0:
        return {}
    metrics = module.task.calibrate(predictions(module, data, rows), targets(data, rows))
    log.info("Calibrated the head on %d cells.", len(rows))
    return {f"calibration/{name}": value for name, value in metrics.items()}


def _scores(task: Head, outputs: dict[str, np.ndarray], data: CellData, rows: np.ndarray) -> dict[str, float]:
    """The head's own metrics of some cells; none where nothing was fitted since training measured the head."""
    if not task.hooks & {"calibrate", "refit"} or len(rows) == 0:
        return {}
    return dict(task.summarize(outputs, dict(targets(data, rows))))


def _coverage(task: Head, outputs: dict[str, np.ndarray], data: CellData, rows: np.ndarray) -> dict[str, float]:
    """Share of the labeled cells that keep a name, and of names that are right: of each column, by the head's keys."""
    annotated, metrics = task.write({**outputs, **store_columns(task, data.store, rows)}).obs, dict[str, float]()
    for label in (name for name in task.labels if f"scfm_{name}" in annotated):
        codes = data.store.obs(label)[rows]
        known = codes >= 0
        called = annotated[f"scfm_{label}"][known]
        named = called != UNKNOWN
        true = np.array(data.store.categories(label) or (), dtype=object)[codes[known]]
        end = f"/{label}" if metrics else ""  # the first column has plain names
        metrics[f"coverage{end}"] = float(named.mean()) if known.any() else float("nan")
        right = (called[named] == true[named]).mean() if named.any() else np.nan
        metrics[f"accuracy_of_named{end}"] = float(right)
    return metrics
