"""Where prototypes begin: the linear discriminant directions of the labeled cells."""

import numpy as np
from scipy.linalg import eigh

#: Share of the covariance inside classes that is replaced by its mean variance.
SHRINK = 0.3


def discriminant_directions(values: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """The directions along which class means differ most, relative to the spread inside classes (Fisher).

    They solve S_between v = λ S_within v, largest λ first, with unit spread inside classes: in their space the nearest
    class mean is the call of a linear discriminant analysis with equal priors. Further directions, along which class
    means do not differ, contribute to the distance of cells that belong to no class.

    Args:
        values: (n, D).
        codes: (n,) class codes, at least two different ones.
        n: number of directions, at most.

    Returns:
        (≤ n, D) float32.
    """
    classes, place = np.unique(codes, return_inverse=True)
    means = np.stack([values[place == i].mean(axis=0) for i in range(len(classes))]).astype(np.float64)
    rest = values - means[place]
    within = rest.T @ rest / max(len(values) - len(classes), 1)
    level = np.trace(within) / len(within) + 1e-12
    within = (1 - SHRINK) * within + SHRINK * level * np.eye(len(within))
    between = np.cov(means.T, bias=True)
    _, directions = eigh(between, within)
    return np.ascontiguousarray(directions.T[::-1][:n], dtype=np.float32)
