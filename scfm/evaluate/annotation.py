"""Annotation of the same cells by several methods, on the same folds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.evaluate.cells import Cells
from scfm.evaluate.cost import Cost
from scfm.evaluate.folds import Fold, make_folds, read_split
from scfm.evaluate.probes import Calls, Features, Model, cross_predict, fixed, linear, majority, nearest
from scfm.metrics.annotation import annotation_scores, bootstrap, interval

logger = logging.getLogger(__name__)

PROBE = ", linear probe"
#: The head's own names, where ``unknown`` is wrong, and its likeliest classes.
HEAD, GUESS = "fine-tuned head", "fine-tuned head, best guess"
#: Seeds of the few-shot draws.
REPEATS = 5


@dataclass(frozen=True)
class Naming:
    """What came of it.

    Attributes:
        calls: by method, each over all test cells.
        scores: methods × metrics, with the interval of the macro-F1, seconds and megabytes.
        draws: bootstrapped macro-F1 by method.
        ours: the methods that use the embedding or the head.
        beside: the methods that use embeddings it is compared with.
        split: in words, who was tested on what.
        shots: macro-F1 by method, share of the labels and seed; empty where none was asked for.
    """

    calls: dict[str, Calls]
    scores: pd.DataFrame
    draws: dict[str, np.ndarray]
    ours: list[str]
    beside: list[str]
    split: str
    shots: pd.DataFrame


def name_cells(
    cells: Cells,
    embedding: str,
    *,
    split: Path | None,
    n_folds: int,
    n_draws: int,
    seed: int,
    shots: Sequence[float] = (),
) -> Naming:
    """Probe the embedding and run the simple methods on the same cells.

    Args:
        cells: with labels.
        embedding: its name.
        split: a fine-tune's split.csv: learn from its training cells, judge its test cells; None: cross-validation.
        n_folds: of the cross-validation, by group where there are groups.
        n_draws: bootstrap resamples.
        seed: of folds and resamples.
        shots: shares of the training labels for few-shot curves.

    Returns:
        Calls and scores of every method.

    Raises:
        ValueError: see :func:`scfm.evaluate.folds.make_folds` and :func:`scfm.evaluate.folds.read_split`.
    """
    folds, text = _folds(cells, split, n_folds, seed)
    calls, costs = {}, {}
    methods = _methods(cells, embedding, seed)
    for name, (features, model) in methods.items():
        with Cost() as cost:
            calls[name] = cross_predict(features, model, cells.codes, folds)
        costs[name] = (cost.seconds, cost.megabytes)
    ours = [name for name in calls if name.startswith(f"{embedding},")]
    beside = [name for name in calls if name.removesuffix(PROBE) in cells.others]
    if cells.called is not None:
        assert cells.confidence is not None
        judged = np.flatnonzero(cells.codes >= 0) if split is None else folds[0][1]
        guessed = None if cells.guessed is None else cells.guessed[judged]
        heads = head_calls(cells.called[judged], guessed, cells.confidence[judged], cells.classes, judged)
        calls |= heads
        ours[:0] = heads
    draws = {
        name: bootstrap(cells.codes, own, cells.group, len(cells.classes), n_draws=n_draws, seed=seed)
        for name, own in calls.items()
    }
    rows = {}
    for name, own in calls.items():
        low, high = interval(draws[name])
        found = annotation_scores(cells.codes, own, len(cells.classes))
        rows[name] = {"macro_f1": found.pop("macro_f1"), "low": low, "high": high, **found}
        rows[name]["seconds"], rows[name]["megabytes"] = costs.get(name, (float("nan"), float("nan")))
    scores = pd.DataFrame.from_dict(rows, orient="index").sort_values("macro_f1", ascending=False)
    return Naming(calls, scores, draws, ours, beside, text, few_shots(cells, methods, folds, shots, seed))


def _methods(cells: Cells, embedding: str, seed: int) -> dict[str, tuple[Features, Model]]:
    expression = cells.expression
    ours = fixed(cells.embedding)
    return {
        f"{embedding}{PROBE}": (ours, linear),
        f"{embedding}, 15 nearest": (ours, nearest),
        **{f"{name}{PROBE}": (fixed(values), linear) for name, values in cells.others.items()},
        "logistic regression on HVGs": (expression.scaled, linear),
        "15 nearest on PCA": (lambda train: expression.principal_components(train, seed), nearest),
        "majority class": (ours, majority),
    }


def few_shots(
    cells: Cells,
    methods: Mapping[str, tuple[Features, Model]],
    folds: Sequence[Fold],
    shares: Sequence[float],
    seed: int,
) -> pd.DataFrame:
    """How good each method is with part of the training labels.

    Args:
        cells: with labels.
        methods: features and model of each; features may use all training cells, labelled or not.
        folds: the draws go round them, so that the range of a curve is over test cells, too.
        shares: of a fold's labelled training cells, drawn anew five times; at least one cell of each class stays.
        seed: of the draws; all methods get the same ones.

    Returns:
        Columns ``method, share, seed, macro_f1``.
    """
    rows = []
    for repeat in range(REPEATS if shares else 0):
        train, test = folds[repeat % len(folds)]
        for name, (features, model) in methods.items():
            values = features(train)
            for share in shares:
                if share == 1 and repeat >= len(folds):
                    continue  # all labels of this fold again
                drawn = few(train, cells.codes, share, seed + repeat)
                own = cross_predict(fixed(values), model, cells.codes, [(drawn, test)])
                score = annotation_scores(cells.codes, own, len(cells.classes))["macro_f1"]
                rows.append((name, share, seed + repeat, score))
    return pd.DataFrame(rows, columns=["method", "share", "seed", "macro_f1"])


def few(rows: np.ndarray, codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of some cells, at random, with at least one of each class."""
    order = np.random.default_rng(seed).permutation(rows)
    kept = order[: max(1, round(share * len(order)))]
    _, first = np.unique(codes[order], return_index=True)
    return np.sort(np.union1d(kept, order[first]))


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


def head_calls(
    named: np.ndarray,
    guessed: np.ndarray | None,
    confidence: np.ndarray,
    classes: Sequence[str],
    rows: np.ndarray,
) -> dict[str, Calls]:
    """What a head said of some cells, as calls of ``HEAD`` and, where it guesses, of ``GUESS``.

    Args:
        named: (n,) its names; ``unknown`` is no class, and so wrong.
        guessed: (n,) its likeliest classes.
        confidence: (n,) of them.
        classes: names of the classes.
        rows: (n,) where the cells stand.
    """
    place = {name: code for code, name in enumerate(classes)}

    def calls(names: np.ndarray) -> Calls:
        codes = np.array([place.get(name, -1) for name in names], dtype=np.int64)
        return Calls(codes, np.asarray(confidence, dtype=np.float64), rows)

    return {HEAD: calls(named)} | ({} if guessed is None else {GUESS: calls(guessed)})
