"""What a backbone adds to the gene components that a head reads beside it: with it, without it, with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfm.head.logistic import EITHER, choose_penalty, logistic_regression
from scfm.metrics.annotation import Calls, annotation_scores, bootstrap, interval
from scfm.metrics.classification import softmax

WITH, WITHOUT, RANDOM = "with the backbone", "without it (components alone)", "with random weights"


@dataclass(frozen=True)
class BackboneGain:
    """Three heads at their linear start, on the same cells.

    Attributes:
        table: rows ``WITH, WITHOUT, RANDOM``; ``macro_f1``, ``gain`` over the components alone with its 95 % interval
            ``low, high`` by paired resamples, and ``backbone_scale``, by which the head weighs the backbone (0: left
            out).
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
    states = {WITH: embeddings[WITH], WITHOUT: None, RANDOM: embeddings[RANDOM]}
    scores, draws, scales = dict[str, float](), dict[str, np.ndarray](), dict[str, float]()
    for name, embedding in states.items():
        deep = [] if embedding is None else [_normalize(embedding)]
        widths = (*(part.shape[1] for part in deep), *blocks)
        values = np.hstack([*deep, components])
        own = None if groups is None else groups[learned]
        penalty = choose_penalty(values[learned], codes[learned], EITHER, widths, own)
        weight, bias = logistic_regression(values[learned], codes[learned], n_classes, penalty, widths)
        probabilities = softmax(values[scored] @ weight.T + bias, 1.0)
        calls = Calls(probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64), scored)
        scores[name] = annotation_scores(codes, calls, n_classes)["macro_f1"]
        draws[name] = bootstrap(codes, calls, groups, n_classes)
        scales[name] = penalty.scales[0] if deep and penalty.scales else float(bool(deep))
    rows = {}
    for name in states:
        low, high = interval(draws[name] - draws[WITHOUT])
        rows[name] = {
            "macro_f1": scores[name],
            "gain": scores[name] - scores[WITHOUT],
            "low": low,
            "high": high,
            "backbone_scale": scales[name],
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return BackboneGain(table, describe(table))


def describe(table: pd.DataFrame) -> str:
    """The sentence that follows from the three rows: the backbone adds something only where its interval is above 0."""

    def number(name: str) -> str:
        return f"{table.loc[name, 'gain']:+.3f} [{table.loc[name, 'low']:+.3f}, {table.loc[name, 'high']:+.3f}]"

    if table.loc[WITH, "low"] > 0:
        start = f"The pretrained backbone adds {number(WITH)} macro-F1 to the gene components"
    elif table.loc[WITH, "high"] < 0:
        start = f"The pretrained backbone takes from the gene components: {number(WITH)} macro-F1"
    else:
        start = f"The pretrained backbone adds nothing to the gene components: {number(WITH)} macro-F1"
    return f"{start}; random weights {number(RANDOM)} (linear heads on cells kept aside, 95 % intervals)."


def _normalize(embedding: np.ndarray) -> np.ndarray:
    """(n, D) float32, each cell at mean 0 and variance 1, as a head normalizes it before training."""
    centered = embedding - embedding.mean(axis=1, keepdims=True)
    normalized: np.ndarray = (centered / np.sqrt(centered.var(axis=1, keepdims=True) + 1e-5)).astype(np.float32)
    return normalized
