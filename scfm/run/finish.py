"""The end of a fine-tune: the best head is made ready for use and judged as it will be used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scfm.checkpoint import read
from scfm.data.module import CellData
from scfm.module import CellModule
from scfm.run.amend import amend
from scfm.run.predict import predictions, targets
from scfm.run.restore import restore_predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A fine-tuned head as its checkpoint holds it.

    Attributes:
        path: the checkpoint.
        module: what it restores to.
        metrics: those of the head as shipped, ``val/...``, ``test/...`` and ``calibration/...``.
        judged: rows of the cells it is shown on: the test cells, or those of validation where there is no test.
        part: what these are.
        outputs: what the head says of them, (n, ...) by name, with their ``embedding``.
    """

    path: Path
    module: CellModule
    metrics: dict[str, float]
    judged: np.ndarray
    part: str
    outputs: dict[str, np.ndarray]


def finish(path: Path, data: CellData, device: torch.device) -> Finished:
    """Fit to whole sets what training could only follow: prototypes to all labelled cells, thresholds to cells apart.

    Prototypes become the means over all training cells; temperature and rejection thresholds are fitted on
    ``data.split.calibration``, which nothing else looks at. The checkpoint is amended, and the metrics that this
    changes are computed again.

    Args:
        path: checkpoint of the best step.
        data: the store and its split.
        device: where to compute.
    """
    module = restore_predictor(read(path)).to(device)
    before = _summary(module, data)
    metrics: dict[str, float] = {}
    if _refit(module, data, metrics):
        amend(path, module.task)
        after = _summary(module, data)
        metrics |= after
        metrics |= {f"{name}_uncalibrated": before[name] for name in before if name.split("/")[1] == "ece"}
    judged, part = (data.split.test, "test") if len(data.split.test) else (data.split.val, "validation")
    return Finished(path, module, metrics, judged, part, predictions(module, data, judged))


def _refit(module: CellModule, data: CellData, metrics: dict[str, float]) -> bool:
    """Whether the head has changed."""
    task: Any = module.task
    changed = False
    if hasattr(task, "consolidate"):
        task.consolidate(predictions(module, data, data.split.train), targets(data, data.split.train))
        changed = True
    rows = data.split.calibration
    if hasattr(task, "calibrate") and len(rows):
        found = task.calibrate(predictions(module, data, rows), targets(data, rows))
        metrics |= {f"calibration/{name}": value for name, value in found.items()}
        log.info("Temperature and rejection thresholds are fitted on %d calibration cells.", len(rows))
        changed = True
    return changed


def _summary(module: CellModule, data: CellData) -> dict[str, float]:
    """Metrics over all validation and all test cells, by part; with coverage where cells may be left unnamed."""
    found: dict[str, float] = {}
    if not hasattr(module.task, "calibrate"):
        return found
    for part, rows in (("val", data.split.val), ("test", data.split.test)):
        if len(rows):
            outputs, truth = predictions(module, data, rows), targets(data, rows)
            scored = module.task.summarise(outputs, dict(truth)) | _coverage(module.task, outputs, data, rows)
            found |= {f"{part}/{name}": float(value) for name, value in scored.items()}
    return found


def _coverage(task: Any, outputs: dict[str, np.ndarray], data: CellData, rows: np.ndarray) -> dict[str, float]:
    """Share of the labelled cells that keep a name, and how many of these names are right, of the first column."""
    label = task.labels[0]
    codes = data.store.obs(label)[rows]
    known = codes >= 0
    called = task.annotate(outputs)[f"scfm_{label}"][known]
    named = called != "unknown"
    true = np.array(data.store.categories(label) or (), dtype=object)[codes[known]]
    right = float((called[named] == true[named]).mean()) if named.any() else float("nan")
    return {"coverage": float(named.mean()) if known.any() else float("nan"), "accuracy_of_named": right}
