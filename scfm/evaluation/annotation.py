"""Annotation of the same cells by several methods, on the same folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from scfm.evaluation.cells import Cells
from scfm.evaluation.folds import Fold, make_folds, read_split
from scfm.evaluation.methods.cost import measure
from scfm.evaluation.methods.embeddings import Embeddings
from scfm.evaluation.methods.method import LINEAR, NEAREST, Method, Role, names, probe
from scfm.evaluation.methods.probes import Features, Model, constant_features, cross_predict, linear, majority, nearest
from scfm.evaluation.methods.rivals import RIVALS
from scfm.evaluation.options import Options
from scfm.metrics.annotation import Calls, annotation_scores, bootstrap, interval

#: The head's own names, where ``unknown`` is wrong, its likeliest classes, and the names by a vote of neighbors.
HEAD, GUESS, MAJORITY = "fine-tuned head", "fine-tuned head, best guess", "fine-tuned head, majority of neighbors"
#: Seeds of the few-shot draws.
REPEATS = 5

Classifier = tuple[Features, Model]


@dataclass(frozen=True)
class Annotation:
    """Cell types called by several methods.

    Attributes:
        methods: what was compared.
        calls: by method, each over all test cells.
        scores: methods × metrics, with the interval of the macro-F1, seconds and megabytes.
        draws: bootstrapped macro-F1 by method, the same resamples for all.
        split: in words, which cells were learned from and which were tested.
        shots: macro-F1 by method, share of the labels and seed; empty where none was asked for.
    """

    methods: tuple[Method, ...]
    calls: dict[str, Calls]
    scores: pd.DataFrame
    draws: dict[str, np.ndarray]
    split: str
    shots: pd.DataFrame

    def names(self, *roles: Role) -> list[str]:
        """Names of the methods of these roles."""
        return names(self.methods, *roles)


def score_annotation(cells: Cells, spaces: Embeddings, options: Options) -> Annotation:
    """Fit probes on the embeddings, run the simple methods on the same cells, and score the head's own names.

    Args:
        cells: with labels.
        spaces: the embeddings to fit probes on, the one in question first.
        options: with a ``split``, methods learn from the training cells of the fine-tune and its test cells are
            scored; without, there is a cross-validation, by group where there are groups.

    Returns:
        Calls and scores of every method.

    Raises:
        ValueError: see :func:`scfm.evaluation.folds.make_folds` and :func:`scfm.evaluation.folds.read_split`.
    """
    folds, text = _folds(cells, options)
    classifiers = {**_probes(spaces), **_simple_methods(cells, options)}
    calls, costs = measure(
        {
            method.name: partial(cross_predict, features, model, cells.codes, folds)
            for method, (features, model) in classifiers.items()
        }
    )
    methods = tuple(classifiers)
    if cells.called is not None:
        heads = _head_calls(cells, folds, cross_validated=options.split is None)
        calls, methods = heads | calls, (*(Method(name, HEAD, "", "ours") for name in heads), *methods)
    draws = {
        name: bootstrap(cells.codes, own, cells.group, len(cells.classes), n_draws=options.draws, seed=options.seed)
        for name, own in calls.items()
    }
    shots = few_shots(cells, {method.name: made for method, made in classifiers.items()}, folds, options)
    return Annotation(methods, calls, _score_table(cells, calls, draws, costs), draws, text, shots)


def _probes(spaces: Embeddings) -> dict[Method, Classifier]:
    """A linear probe on each embedding, and the nearest cells in the one in question."""
    classifiers: dict[Method, Classifier] = {}
    for place, space in enumerate(spaces.methods):
        features = constant_features(spaces.values[space.name])
        classifiers[probe(space.space, LINEAR, space.role)] = (features, linear)
        if place == 0:
            classifiers[probe(space.space, NEAREST, space.role)] = (features, nearest)
    return classifiers


def _simple_methods(cells: Cells, options: Options) -> dict[Method, Classifier]:
    """What a user would do without a backbone; genes and scales are chosen by the training cells of each fold."""
    chosen = [RIVALS[name] for name in options.rivals]
    rivals = {rival.method: (rival.read(cells.expression, options.seed), rival.model) for rival in chosen}
    nothing = Method("majority class", "", "majority class", "control")
    return {**rivals, nothing: (constant_features(cells.embedding), majority)}


def _score_table(
    cells: Cells, calls: Mapping[str, Calls], draws: Mapping[str, np.ndarray], costs: pd.DataFrame
) -> pd.DataFrame:
    """Methods × scores, best first."""
    rows = {}
    for name, own in calls.items():
        scores = annotation_scores(cells.codes, own, len(cells.classes))
        low, high = interval(draws[name])
        rows[name] = {"macro_f1": scores.pop("macro_f1"), "low": low, "high": high, **scores}
    return pd.DataFrame.from_dict(rows, orient="index").join(costs).sort_values("macro_f1", ascending=False)


def few_shots(cells: Cells, methods: Mapping[str, Classifier], folds: Sequence[Fold], options: Options) -> pd.DataFrame:
    """How good each method is with part of the training labels.

    Args:
        cells: with labels.
        methods: features and model of each; features may use all training cells, labeled or not.
        folds: each draw uses the next fold, so that the range of a curve is over test cells, too.
        options: its ``shots`` are the shares of a fold's labeled training cells, each drawn five times; at least one
            cell of each class stays. All methods get the same draws.

    Returns:
        Columns ``method, share, seed, macro_f1``.
    """
    rows, seed = [], options.seed
    for repeat in range(REPEATS if options.shots else 0):
        train, test = folds[repeat % len(folds)]
        for name, (features, model) in methods.items():
            values = features(train)
            for share in options.shots:
                if share == 1 and repeat >= len(folds):
                    continue  # all labels of this fold were used before
                drawn = draw_labels(train, cells.codes, share, seed + repeat)
                own = cross_predict(constant_features(values), model, cells.codes, [(drawn, test)])
                score = annotation_scores(cells.codes, own, len(cells.classes))["macro_f1"]
                rows.append((name, share, seed + repeat, score))
    return pd.DataFrame(rows, columns=["method", "share", "seed", "macro_f1"])


def draw_labels(rows: np.ndarray, codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of some cells, at random, with at least one of each class."""
    order = np.random.default_rng(seed).permutation(rows)
    kept = order[: max(1, round(share * len(order)))]
    _, first = np.unique(codes[order], return_index=True)
    return np.sort(np.union1d(kept, order[first]))


def _folds(cells: Cells, options: Options) -> tuple[list[Fold], str]:
    if options.split is not None:
        folds = read_split(Path(options.split), list(cells.names), cells.codes)
        train, test = folds[0]
        return (
            folds,
            f"learned from the {len(train):,} training cells of the fine-tune, tested on its {len(test):,} test cells",
        )
    folds = make_folds(cells.codes, cells.group, options.folds, options.seed)
    unit = "by single cells (no group column was given, so cells of one donor may lie on both sides)"
    if cells.group is not None:
        unit = f"by group, {len(set(cells.group))} groups, none on both sides"
    return folds, f"{len(folds)}-fold cross-validation {unit}"


def _head_calls(cells: Cells, folds: Sequence[Fold], *, cross_validated: bool) -> dict[str, Calls]:
    """The head's names of all labeled cells, or of the test cells of its fine-tune."""
    rows = np.flatnonzero(cells.codes >= 0) if cross_validated else folds[0][1]
    assert cells.called is not None
    assert cells.confidence is not None
    guesses, votes = (None if names is None else names[rows] for names in (cells.guessed, cells.voted))
    return head_calls(cells.called[rows], guesses, cells.confidence[rows], cells.classes, rows, votes)


def head_calls(
    called: np.ndarray,
    guessed: np.ndarray | None,
    confidence: np.ndarray,
    classes: Sequence[str],
    rows: np.ndarray,
    voted: np.ndarray | None = None,
) -> dict[str, Calls]:
    """A head's names of some cells, as calls of ``HEAD`` and, where there are such, of ``GUESS`` and ``MAJORITY``.

    Args:
        called: (n,) its names; ``unknown`` is no class, and so wrong.
        guessed: (n,) its likeliest classes.
        confidence: (n,) of them.
        classes: names of the classes.
        rows: (n,) rows of the cells.
        voted: (n,) names by the majority of neighbors, which may read test cells.
    """
    place = {name: code for code, name in enumerate(classes)}

    def calls(names: np.ndarray) -> Calls:
        codes = np.array([place.get(name, -1) for name in names], dtype=np.int64)
        return Calls(codes, np.asarray(confidence, dtype=np.float64), rows)

    others = {GUESS: guessed, MAJORITY: voted}
    return {HEAD: calls(called)} | {name: calls(names) for name, names in others.items() if names is not None}
