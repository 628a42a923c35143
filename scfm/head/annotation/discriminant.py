"""Where prototypes begin: the linear discriminant directions of the labelled cells."""

import numpy as np
from scipy.linalg import eigh

#: Share of the covariance inside classes that is replaced by its mean variance.
SHRINK = 0.3


def discriminant_directions(values: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    """The directions along which classes lie farthest apart, measured by the spread inside them.

    They solve S_between v = λ S_within v, largest λ first, with unit spread inside classes: the nearest class mean in
    their space is the call of a discriminant analysis with equal priors (Fisher), and further directions, along which
    class means do not differ, still count for the distance of a cell that belongs to none.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        size: how many directions, at most.

    Returns:
        (≤ size, D) float32.
    """
    classes, own = np.unique(codes, return_inverse=True)
    means = np.stack([values[own == i].mean(axis=0) for i in range(len(classes))]).astype(np.float64)
    rest = values - means[own]
    within = rest.T @ rest / max(len(values) - len(classes), 1)
    level = np.trace(within) / len(within) + 1e-12
    within = (1 - SHRINK) * within + SHRINK * level * np.eye(len(within))
    between = np.cov(means.T, bias=True)
    _, directions = eigh(between, within)
    return np.ascontiguousarray(directions.T[::-1][:size], dtype=np.float32)
