"""Simple classifiers that show what an embedding knows: a linear one and nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from scfm.evaluation.folds import Fold
from scfm.metrics.annotation import Calls

#: Inverse strengths of the L2 penalty that the linear probe tries.
PENALTIES = (1.0, 0.03, 0.0005)

#: (features of training cells, their codes, features of test cells) -> (classes seen, (tests, classes) probabilities)
Model = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

#: training rows -> (B, F) features of all cells, nothing in them fitted on other rows
Features = Callable[[np.ndarray], np.ndarray]


def linear(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression, as strong as it can be made without looking at test cells.

    Features scaled by the training cells, classes weighted inversely to their frequency, L2 penalty chosen among
    ``PENALTIES`` by macro-F1 on a quarter of the training cells.
    """
    scaler = StandardScaler().fit(train)
    values = scaler.transform(train)
    model = _logistic(choose_penalty(values, codes, PENALTIES, _logistic)).fit(values, codes)
    return model.classes_, model.predict_proba(scaler.transform(test))


def _logistic(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=300, tol=1e-3, class_weight="balanced")


def choose_penalty(
    values: np.ndarray, codes: np.ndarray, penalties: Sequence[float], make: Callable[[float], LogisticRegression]
) -> float:
    """The inverse strength of the penalty with the best macro-F1 on a quarter of the cells; the first of equal ones.

    Args:
        values: (n, F), sparse or not.
        codes: (n,) class codes.
        penalties: candidates; the first where cells are too few to compare.
        make: a model of one of them.
    """
    order = np.random.default_rng(0).permutation(len(codes))
    held, kept = order[: len(codes) // 4], order[len(codes) // 4 :]
    if len(held) == 0 or len(np.unique(codes[kept])) < 2:
        return penalties[0]

    def quality(penalty: float) -> float:
        called = make(penalty).fit(values[kept], codes[kept]).predict(values[held])
        return float(f1_score(codes[held], called, average="macro", zero_division=0))

    return max(penalties, key=quality)


def nearest(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of each class among the 15 nearest training cells."""
    model = KNeighborsClassifier(n_neighbors=min(15, len(train)), algorithm="brute").fit(train, codes)
    return model.classes_, model.predict_proba(test)


def majority(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes' shares among the training cells, whatever the cell looks like."""
    classes, counts = np.unique(codes, return_counts=True)
    return classes, np.tile(counts / counts.sum(), (len(test), 1))


def cross_predict(features: Features, model: Model, codes: np.ndarray, folds: Sequence[Fold]) -> Calls:
    """Calls of every test cell by a model that has not seen its group.

    Args:
        features: makes the features of a fold.
        model: fits and predicts.
        codes: (B,) class codes of all cells.
        folds: (train rows, test rows).

    Returns:
        The calls of all test cells, in the order of the folds.
    """
    called, confidence = [], []
    for train, test in folds:
        values = features(train)
        classes, probabilities = model(values[train], codes[train], values[test])
        called.append(classes[probabilities.argmax(axis=1)])
        confidence.append(probabilities.max(axis=1))
    rows = np.concatenate([test for _, test in folds])
    return Calls(np.concatenate(called).astype(np.int64), np.concatenate(confidence), rows)


def constant_features(embedding: np.ndarray) -> Features:
    """Features that are the same in every fold."""
    return lambda train: embedding
