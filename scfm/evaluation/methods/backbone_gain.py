"""What a backbone adds to the gene components that a head reads beside it: with it, without it, with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfm.head.logistic import BALANCED, EITHER, Penalty, choose_penalty, logistic_regression
from scfm.metrics.annotation import Calls, annotation_scores, bootstrap, interval
from scfm.metrics.classification import softmax
from scfm.metrics.trajectory import bootstrap_concordance, concordance

WITH, WITHOUT, RANDOM = "with the backbone", "without it (components alone)", "with random weights"
#: Classes of times, at most.
MAX_CLASSES = 16


@dataclass(frozen=True)
class BackboneGain:
    """Three heads at their linear start, on the same cells.

    Attributes:
        table: rows ``WITH, WITHOUT, RANDOM``; the score (``macro_f1`` or ``concordance``), ``gain`` over the components
            alone with its 95 % interval ``low, high`` by paired resamples, and ``backbone_scale``, by which the head
            weighs the backbone (0: left out).
        sentence: what follows from them.
    """

    table: pd.DataFrame
    sentence: str


def compare_backbones(
    embeddings: Mapping[str, np.ndarray],
    components: np.ndarray,
    blocks: Sequence[int],
    codes: np.ndarray,
    train: np.ndarray,
    n_classes: int,
    groups: np.ndarray | None = None,
) -> BackboneGain:
    """Fit the regression that a head begins at on three states of the training cells, and score it on the others.

    Args:
        embeddings: (n, D) by ``WITH`` and ``RANDOM``, of the pretrained and of a random backbone, not fine-tuned.
        components: (n, k) what the head reads beside them.
        blocks: widths of the components' blocks, of sum k.
        codes: (n,) class codes, -1 where missing.
        train: (n,) bool: cells to learn from.
        n_classes: C.
        groups: (n,) donors or the like, resampled whole and kept together in folds; None for single cells.
    """
    known = codes >= 0
    learned, scored = np.flatnonzero(train & known), np.flatnonzero(~train & known)
    scores, draws, scales = dict[str, float](), dict[str, np.ndarray](), dict[str, float]()
    for name, (values, widths) in _states(embeddings, components, blocks).items():
        probabilities, scales[name] = _regress(values, widths, codes, learned, scored, n_classes, groups, EITHER)
        calls = Calls(probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64), scored)
        scores[name] = annotation_scores(codes, calls, n_classes)["macro_f1"]
        draws[name] = bootstrap(codes, calls, groups, n_classes)
    table = _gain_table("macro_f1", scores, draws, scales)
    return BackboneGain(table, describe(table))


def compare_orders(
    embeddings: Mapping[str, np.ndarray],
    components: np.ndarray,
    blocks: Sequence[int],
    times: np.ndarray,
    train: np.ndarray,
    groups: np.ndarray | None = None,
) -> BackboneGain:
    """The same for a head of stages or times: the mean time by a regression over them, scored by its concordance.

    Args:
        embeddings: see :func:`compare_backbones`.
        components: the same.
        blocks: the same.
        times: (n,) known times or ranks of stages, NaN where missing; more than 16 different ones are put into 16
            classes of like size.
        train: (n,) bool: cells to learn from.
        groups: see :func:`compare_backbones`.

    Raises:
        ValueError: the cells to learn from, or those to score, have no two different times.
    """
    known = np.isfinite(times)
    learned, scored = np.flatnonzero(train & known), np.flatnonzero(~train & known)
    for rows, part in ((learned, "learn from"), (scored, "score")):
        if len(np.unique(times[rows])) < 2:
            raise ValueError(f"the {len(rows)} cells to {part} have no two different times")
    codes, means = _time_classes(times, learned)
    scores, draws, scales = dict[str, float](), dict[str, np.ndarray](), dict[str, float]()
    for name, (values, widths) in _states(embeddings, components, blocks).items():
        probabilities, scales[name] = _regress(values, widths, codes, learned, scored, len(means), groups, BALANCED)
        order = probabilities @ means
        scores[name] = concordance(order, times[scored])
        draws[name] = bootstrap_concordance(order, times[scored], None if groups is None else groups[scored])
    table = _gain_table("concordance", scores, draws, scales)
    return BackboneGain(table, describe(table, "of the pairs of cells in order"))


def _states(
    embeddings: Mapping[str, np.ndarray], components: np.ndarray, blocks: Sequence[int]
) -> dict[str, tuple[np.ndarray, tuple[int, ...]]]:
    """The three states (n, D) by name, with the widths of their blocks."""
    states = {}
    for name in (WITH, WITHOUT, RANDOM):
        deep = [] if name == WITHOUT else [_normalize(embeddings[name])]
        states[name] = np.hstack([*deep, components]), (*(part.shape[1] for part in deep), *blocks)
    return states


def _regress(
    values: np.ndarray,
    widths: tuple[int, ...],
    codes: np.ndarray,
    learned: np.ndarray,
    scored: np.ndarray,
    n_classes: int,
    groups: np.ndarray | None,
    penalties: Sequence[Penalty],
) -> tuple[np.ndarray, float]:
    """(m, C) probabilities of the scored cells, and the factor of the first block."""
    own = None if groups is None else groups[learned]
    penalty = choose_penalty(values[learned], codes[learned], penalties, widths, own)
    weight, bias = logistic_regression(values[learned], codes[learned], n_classes, penalty, widths)
    return softmax(values[scored] @ weight.T + bias, 1.0), penalty.scales[0] if penalty.scales else 1.0


def _time_classes(times: np.ndarray, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) classes of the times, and (C,) the mean time of each class among the cells to learn from."""
    seen = np.unique(times[learned])
    edges = (seen[1:] + seen[:-1]) / 2
    if len(seen) > MAX_CLASSES:
        edges = np.unique(np.quantile(times[learned], np.arange(1, MAX_CLASSES) / MAX_CLASSES))
    codes = np.searchsorted(edges, times)
    present, codes_of_learned = np.unique(codes[learned], return_inverse=True)
    means = np.bincount(codes_of_learned, times[learned]) / np.bincount(codes_of_learned)
    return np.searchsorted(present, codes).clip(max=len(present) - 1), means


def _gain_table(
    metric: str, scores: Mapping[str, float], draws: Mapping[str, np.ndarray], scales: Mapping[str, float]
) -> pd.DataFrame:
    """The three rows, from their scores and those of the same resamples."""
    rows = {}
    for name in (WITH, WITHOUT, RANDOM):
        low, high = interval(draws[name] - draws[WITHOUT])
        rows[name] = {
            metric: scores[name],
            "gain": scores[name] - scores[WITHOUT],
            "low": low,
            "high": high,
            "backbone_scale": 0.0 if name == WITHOUT else scales[name],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def describe(table: pd.DataFrame, unit: str = "macro-F1") -> str:
    """The sentence that follows from the three rows: the backbone adds something only where its interval is above 0.

    Args:
        table: of a :class:`BackboneGain`.
        unit: what the gain is of.
    """

    def number(name: str) -> str:
        return f"{table.loc[name, 'gain']:+.3f} [{table.loc[name, 'low']:+.3f}, {table.loc[name, 'high']:+.3f}]"

    if table.loc[WITH, "low"] > 0:
        start = f"The pretrained backbone adds {number(WITH)} {unit} to the gene components"
    elif table.loc[WITH, "high"] < 0:
        start = f"The pretrained backbone takes from the gene components: {number(WITH)} {unit}"
    else:
        start = f"The pretrained backbone adds nothing to the gene components: {number(WITH)} {unit}"
    return f"{start}; random weights {number(RANDOM)} (linear heads on cells kept aside, 95 % intervals)."


def _normalize(embedding: np.ndarray) -> np.ndarray:
    """(n, D) float32, each cell at mean 0 and variance 1, as a head normalizes it before training."""
    centered = embedding - embedding.mean(axis=1, keepdims=True)
    normalized: np.ndarray = (centered / np.sqrt(centered.var(axis=1, keepdims=True) + 1e-5)).astype(np.float32)
    return normalized
