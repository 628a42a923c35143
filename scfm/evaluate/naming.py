"""Annotation of the same cells by several methods, on the same folds."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.evaluate.annotation import annotation_scores, bootstrap, interval
from scfm.evaluate.folds import Fold, make_folds, read_split
from scfm.evaluate.probe import Calls, Features, Model, cross_predict, fixed, linear, majority, nearest
from scfm.evaluate.table import Cells

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Naming:
    """What came of it.

    Attributes:
        calls: by method, each over all test cells.
        scores: methods × metrics, with the interval of the macro-F1 and seconds.
        draws: bootstrapped macro-F1 by method.
        ours: the methods that use the embedding or the head.
        split: in words, who was tested on what.
    """

    calls: dict[str, Calls]
    scores: pd.DataFrame
    draws: dict[str, np.ndarray]
    ours: list[str]
    split: str


def name_cells(cells: Cells, embedding: str, *, split: Path | None, n_folds: int, n_draws: int, seed: int) -> Naming:
    """Probe the embedding and run the simple methods on the same cells.

    Args:
        cells: with labels.
        embedding: its name.
        split: a fine-tune's split.csv: learn from its training cells, judge its test cells; None: cross-validation.
        n_folds: of the cross-validation, by group where there are groups.
        n_draws: bootstrap resamples.
        seed: of folds and resamples.

    Returns:
        Calls and scores of every method.

    Raises:
        ValueError: see :func:`scfm.evaluate.folds.make_folds` and :func:`scfm.evaluate.folds.read_split`.
    """
    folds, text = _folds(cells, split, n_folds, seed)
    calls, seconds = {}, {}
    for name, (features, model) in _methods(cells, embedding, seed).items():
        began = time.perf_counter()
        calls[name] = cross_predict(features, model, cells.codes, folds)
        seconds[name] = time.perf_counter() - began
    ours = [name for name in calls if name.startswith(embedding)]
    if cells.called is not None and split is not None:
        calls["fine-tuned head"] = _head_calls(cells, folds[0][1])
        ours.insert(0, "fine-tuned head")
    draws = {
        name: bootstrap(cells.codes, own, cells.group, len(cells.classes), n_draws=n_draws, seed=seed)
        for name, own in calls.items()
    }
    rows = {}
    for name, own in calls.items():
        low, high = interval(draws[name])
        found = annotation_scores(cells.codes, own, len(cells.classes))
        rows[name] = {"macro_f1": found.pop("macro_f1"), "low": low, "high": high, **found}
        rows[name]["seconds"] = seconds.get(name, float("nan"))
    scores = pd.DataFrame.from_dict(rows, orient="index").sort_values("macro_f1", ascending=False)
    return Naming(calls, scores, draws, ours, text)


def _methods(cells: Cells, embedding: str, seed: int) -> dict[str, tuple[Features, Model]]:
    expression = cells.expression
    ours = fixed(cells.embedding)
    return {
        f"{embedding}, linear probe": (ours, linear),
        f"{embedding}, 15 nearest": (ours, nearest),
        "logistic regression on HVGs": (expression.scaled, linear),
        "15 nearest on PCA": (lambda train: expression.principal_components(train, seed), nearest),
        "majority class": (ours, majority),
    }


def _folds(cells: Cells, split: Path | None, n_folds: int, seed: int) -> tuple[list[Fold], str]:
    if split is not None:
        folds = read_split(split, list(cells.names), cells.codes)
        train, test = folds[0]
        return (
            folds,
            f"learned from the {len(train):,} training cells of the fine-tune, judged on its {len(test):,} test cells",
        )
    folds = make_folds(cells.codes, cells.group, n_folds, seed)
    by = "by single cells (no group column was given, so cells of one donor may lie on both sides)"
    if cells.group is not None:
        by = f"by group, {len(set(cells.group))} groups, none on both sides"
    return folds, f"{len(folds)}-fold cross-validation {by}"


def _head_calls(cells: Cells, rows: np.ndarray) -> Calls:
    assert cells.called is not None
    assert cells.confidence is not None
    place = {name: code for code, name in enumerate(cells.classes)}
    codes = np.array([place.get(name, -1) for name in cells.called[rows]], dtype=np.int64)
    return Calls(codes, cells.confidence[rows], rows)
