"""Temperature and rejection thresholds, fitted on cells that are used for nothing else."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

#: A class with fewer correct calibration cells than this gets the threshold of all classes together.
MIN_CELLS = 20


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature under which held-out cells are most likely (Guo et al., 2017).

    The target of the true class is (n+1)/(n+2) rather than 1 (Platt, 1999): where all calibration cells are called
    correctly, the likelihood alone would drive T to 0, and calls of unknown cells would have probabilities near 1 too.

    Args:
        logits: (B, C) of labeled cells.
        truth: (B,) their class codes.

    Returns:
        T in [1/20, 20] that minimizes the cross-entropy of softmax(logits / T); 1 without cells.
    """
    n_cells, n_classes = logits.shape
    if n_cells == 0:
        return 1.0
    target = np.full(logits.shape, 1 / ((n_cells + 2) * (n_classes - 1)))
    target[np.arange(n_cells), truth] = (n_cells + 1) / (n_cells + 2)
    logits = np.asarray(logits, dtype=np.float64)
    wanted = (target * logits).sum(axis=1)

    def cross_entropy(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - wanted * scale))

    bound = np.log(20.0)
    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-bound, bound), method="bounded").x))


def fit_thresholds(
    probabilities: np.ndarray, truth: np.ndarray, quantile: float, confidence: np.ndarray | None = None
) -> np.ndarray:
    """The confidence below which a call of each class is rejected.

    Only *correct* calls count: with wrong calls included, the threshold would be lowest where errors are most frequent.

    Args:
        probabilities: (B, C) of labeled cells, after temperature.
        truth: (B,) their class codes.
        quantile: share of the correct calls that may be rejected.
        confidence: (B,) of each call; None for its probability.

    Returns:
        (C,) float64: the quantile of the confidence over the cells correctly called that class; where these
        are fewer than 20, the quantile over the correct calls of all classes; 0 without any correct call.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1) if confidence is None else confidence
    correct = predicted == truth
    pooled = np.quantile(confidence[correct], quantile) if correct.any() else 0.0
    thresholds = np.full(probabilities.shape[1], pooled)
    for code in range(probabilities.shape[1]):
        of_class = confidence[correct & (predicted == code)]
        if len(of_class) >= MIN_CELLS:
            thresholds[code] = np.quantile(of_class, quantile)
    return thresholds
