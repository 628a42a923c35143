"""How familiar a cell is: the probability of its call, and the distance of its scores to those of known cells."""

import numpy as np
import torch
from torch import Tensor, nn

from scfm.metrics.classification import softmax

#: A class needs this many calibration cells for a center, and the head this many of them for a covariance.
MIN_OWN, MIN_ALL = 5, 50
#: Share of the covariance that is replaced by its mean variance.
SHRINK = 0.2
#: Parts of the calibration cells; the distance of a cell is to the centers of the other parts.
FOLDS = 5
#: Quantiles by which a distribution over calibration cells is stored.
N_QUANTILES = 201


class Familiarity(nn.Module):
    """Mean of two ranks among calibration cells: of the largest probability, and of the closeness to a center.

    Closeness is minus the squared Mahalanobis distance of the scores (less their mean) to the nearest class center,
    with one covariance for all classes (Lee et al., 2018): a cell of an unknown type can have a high probability and
    scores unlike those of any known cell. A call of a class without a center is ranked by its probability alone. Before
    :meth:`fit`, and with fewer than 50 calibration cells, familiarity is the probability itself.

    Args:
        n_classes: C.
    """

    centers: Tensor
    precision: Tensor
    sure: Tensor
    near: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.full((n_classes, n_classes), torch.nan))
        self.register_buffer("precision", torch.zeros(n_classes, n_classes))
        self.register_buffer("sure", torch.full((N_QUANTILES,), torch.nan))
        self.register_buffer("near", torch.full((N_QUANTILES,), torch.nan))

    def fit(self, logits: np.ndarray, truth: np.ndarray, temperature: float) -> np.ndarray:
        """Learn centers, covariance and ranks.

        Args:
            logits: (B, C) of labeled cells that were not trained on.
            truth: (B,) their class codes.
            temperature: of the probabilities.

        Returns:
            The familiarity of these cells, (B,), each part relative to the centers of the other parts.
        """
        self.sure.fill_(torch.nan)
        confidence, called = _calls(logits, temperature)
        if len(truth) < MIN_ALL or np.bincount(truth).max() < MIN_OWN:
            return confidence
        part = np.random.default_rng(0).permutation(len(truth)) % FOLDS
        closeness = np.full(len(truth), np.nan)
        for fold in range(FOLDS):
            others = part != fold
            closeness[~others] = _closeness(logits[~others], called[~others], *_fit(logits[others], truth[others]))
        centers, precision = _fit(logits, truth)
        self.centers.copy_(torch.from_numpy(centers))
        self.precision.copy_(torch.from_numpy(precision))
        places, finite = np.linspace(0, 1, N_QUANTILES), closeness[np.isfinite(closeness)]
        self.sure.copy_(torch.from_numpy(np.quantile(confidence, places)))
        self.near.copy_(torch.from_numpy(np.quantile(finite, places) if len(finite) else np.zeros(N_QUANTILES)))
        return self._mean_rank(confidence, closeness)

    def rate(self, logits: np.ndarray, temperature: float) -> np.ndarray:
        """The familiarity of cells with scores (B, C), (B,) float64 in [0, 1]; 1 for the most familiar."""
        confidence, called = _calls(logits, temperature)
        if self.sure.isnan().any():
            return confidence
        centers, precision = self.centers.cpu().double().numpy(), self.precision.cpu().double().numpy()
        return self._mean_rank(confidence, _closeness(logits, called, centers, precision))

    def _mean_rank(self, confidence: np.ndarray, closeness: np.ndarray) -> np.ndarray:
        first, second = _rank(confidence, self.sure.cpu().numpy()), _rank(closeness, self.near.cpu().numpy())
        return (first + np.where(np.isnan(closeness), first, second)) / 2


def _calls(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Largest probability and likeliest class of each cell, (B,) each."""
    probabilities = softmax(logits, temperature)
    return probabilities.max(axis=1), probabilities.argmax(axis=1)


def _rank(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Share of ``known``, which is sorted, at or below each value."""
    return np.searchsorted(known, values.astype(known.dtype), side="right") / len(known)


def _center(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits, dtype=np.float64) - logits.mean(axis=1, keepdims=True)


def _fit(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centers (C, C), NaN for a class of too few cells, and the precision (C, C) about them."""
    scores, n_classes = _center(logits), logits.shape[1]
    centers, rest = np.full((n_classes, n_classes), np.nan), []
    for code in np.unique(truth):
        of_class = scores[truth == code]
        if len(of_class) >= MIN_OWN - 1:  # one less: a part may be held out
            centers[code] = of_class.mean(axis=0)
            rest.append(of_class - centers[code])
    covariance = np.cov(np.concatenate(rest).T) if rest else np.eye(n_classes)
    level = np.trace(covariance) / n_classes + 1e-12
    return centers, np.linalg.inv((1 - SHRINK) * covariance + SHRINK * level * np.eye(n_classes))


def _closeness(logits: np.ndarray, called: np.ndarray, centers: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Minus the squared distance to the nearest center, (B,); NaN where the called class has none."""
    fitted = ~np.isnan(centers).any(axis=1)
    if not fitted.any():
        return np.full(len(logits), np.nan)
    scores = _center(logits)
    nearest = np.full(len(scores), np.inf)
    for center in centers[fitted]:
        gap = scores - center
        nearest = np.minimum(nearest, ((gap @ precision) * gap).sum(axis=1))
    return np.where(fitted[called], -nearest, np.nan)
