"""How well predicted classes fit the true ones. Plain NumPy; cells whose true class is missing (-1) do not count."""

import numpy as np


def keep_labeled(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the cells whose class is known.

    Args:
        logits: (B, C).
        truth: (B,) class codes, -1 where missing.

    Returns:
        The rows of both that are labeled.
    """
    known = truth >= 0
    return logits[known], truth[known]


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities, (B, C) float64: the softmax of ``logits / temperature``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(scaled)
    return powers / powers.sum(axis=1, keepdims=True)


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) int64: cells of true class ``row`` that were called ``column``."""
    pairs = np.asarray(truth, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(table: np.ndarray) -> float:
    """Share of cells on the diagonal of a confusion table; NaN without cells."""
    return float(np.trace(table) / table.sum()) if table.sum() else float("nan")


def class_f1(table: np.ndarray) -> np.ndarray:
    """(C,) F1 of each class of a confusion table; NaN for a class that is neither true nor predicted anywhere."""
    sizes = table.sum(axis=0) + table.sum(axis=1)
    return np.divide(2 * np.diag(table), sizes, out=np.full(len(table), np.nan), where=sizes > 0)


def macro_f1(table: np.ndarray) -> float:
    """Mean F1 over the classes that are true or predicted somewhere (as scikit-learn); NaN without cells."""
    scores = class_f1(table)
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def balanced_accuracy(table: np.ndarray) -> float:
    """Mean recall over the classes that have cells; NaN without cells."""
    sizes = table.sum(axis=1)
    present = sizes > 0
    return float((np.diag(table)[present] / sizes[present]).mean()) if present.any() else float("nan")


def reliability(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 15) -> np.ndarray:
    """What a reliability diagram draws.

    Args:
        confidence: (B,) probability of the predicted class, in [0, 1].
        correct: (B,) whether the prediction was right.
        n_bins: equally wide bins; a confidence on an edge falls into the bin below it.

    Returns:
        (n_bins, 3): mean confidence, share correct, number of cells; NaN in the first two where a bin is empty.
    """
    place = np.clip(np.ceil(np.asarray(confidence) * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    sizes = np.bincount(place, minlength=n_bins).astype(np.float64)
    sums = [np.bincount(place, weights=values, minlength=n_bins) for values in (confidence, correct)]
    means = [np.divide(total, sizes, out=np.full(n_bins, np.nan), where=sizes > 0) for total in sums]
    return np.column_stack([*means, sizes])


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 15) -> float:
    """Expected calibration error: the bins' |confidence − accuracy|, weighted by their cells (Guo et al., 2017)."""
    bins = reliability(confidence, correct, n_bins)
    sizes = bins[:, 2]
    return float(np.nansum(np.abs(bins[:, 0] - bins[:, 1]) * sizes) / sizes.sum()) if sizes.sum() else float("nan")


def scores(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> dict[str, float]:
    """The numbers by which an annotation is judged.

    Args:
        logits: (B, C).
        truth: (B,) class codes, -1 where missing.
        temperature: divides the logits before the softmax.

    Returns:
        ``macro_f1, accuracy, balanced_accuracy, ece``; all NaN when no cell is labeled.
    """
    logits, truth = keep_labeled(logits, truth)
    probabilities = softmax(logits, temperature)
    predicted = logits.argmax(axis=1)
    table = confusion(truth, predicted, logits.shape[1])
    return {
        "macro_f1": macro_f1(table),
        "accuracy": accuracy(table),
        "balanced_accuracy": balanced_accuracy(table),
        "ece": calibration_error(probabilities.max(axis=1), predicted == truth),
    }
