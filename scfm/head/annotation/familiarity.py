"""How familiar a cell looks: how sure its call is, and how near its scores lie to those of known cells."""

import numpy as np
import torch
from torch import Tensor, nn

from scfm.metrics.classification import softmax

#: A class needs this many calibration cells for a centre, and the head this many of them for a covariance.
MIN_OWN, MIN_ALL = 5, 50
#: Share of the covariance that is replaced by its mean variance.
SHRINK = 0.2
#: Parts of the calibration cells; each is measured from the centres of the others.
FOLDS = 5
#: Places at which a distribution over calibration cells is kept.
PLACES = 201


class Familiarity(nn.Module):
    """Mean of two ranks among calibration cells: of the largest probability, and of the closeness to a centre.

    Closeness is the Mahalanobis distance of the scores (less their mean) to the nearest class centre, with one
    covariance for all classes (Lee et al., 2018): a strange cell can be sure of a class and still score unlike any of
    its cells. A call of a class without a centre is ranked by its probability alone. Until fitted, and where
    calibration cells are fewer than 50, familiarity is the probability itself.

    Args:
        n_classes: C.
    """

    centres: Tensor
    precision: Tensor
    sure: Tensor
    near: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.full((n_classes, n_classes), torch.nan))
        self.register_buffer("precision", torch.zeros(n_classes, n_classes))
        self.register_buffer("sure", torch.full((PLACES,), torch.nan))
        self.register_buffer("near", torch.full((PLACES,), torch.nan))

    def fit(self, logits: np.ndarray, truth: np.ndarray, temperature: float) -> np.ndarray:
        """Learn centres, covariance and ranks.

        Args:
            logits: (B, C) of labelled cells that were not trained on.
            truth: (B,) their class codes.
            temperature: of the probabilities.

        Returns:
            (B,) the familiarity of these cells, each part of them measured from the others.
        """
        self.sure.fill_(torch.nan)
        confidence, called = _calls(logits, temperature)
        if len(truth) < MIN_ALL or np.bincount(truth).max() < MIN_OWN:
            return confidence
        part = np.random.default_rng(0).permutation(len(truth)) % FOLDS
        closeness = np.full(len(truth), np.nan)
        for fold in range(FOLDS):
            away = part != fold
            closeness[~away] = _closeness(logits[~away], called[~away], *_fit(logits[away], truth[away]))
        centres, precision = _fit(logits, truth)
        self.centres.copy_(torch.from_numpy(centres))
        self.precision.copy_(torch.from_numpy(precision))
        places, found = np.linspace(0, 1, PLACES), closeness[np.isfinite(closeness)]
        self.sure.copy_(torch.from_numpy(np.quantile(confidence, places)))
        self.near.copy_(torch.from_numpy(np.quantile(found, places) if len(found) else np.zeros(PLACES)))
        return self._ranked(confidence, closeness)

    def of(self, logits: np.ndarray, temperature: float) -> np.ndarray:
        """(B,) float64 in [0, 1], 1 for the most familiar; of scores (B, C)."""
        confidence, called = _calls(logits, temperature)
        if self.sure.isnan().any():
            return confidence
        centres, precision = self.centres.cpu().double().numpy(), self.precision.cpu().double().numpy()
        return self._ranked(confidence, _closeness(logits, called, centres, precision))

    def _ranked(self, confidence: np.ndarray, closeness: np.ndarray) -> np.ndarray:
        first, second = _rank(confidence, self.sure.cpu().numpy()), _rank(closeness, self.near.cpu().numpy())
        return (first + np.where(np.isnan(closeness), first, second)) / 2


def _calls(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    probabilities = softmax(logits, temperature)
    return probabilities.max(axis=1), probabilities.argmax(axis=1)


def _rank(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.searchsorted(known, values.astype(known.dtype), side="right") / len(known)


def _centred(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits, dtype=np.float64) - logits.mean(axis=1, keepdims=True)


def _fit(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (C, C), NaN for a class of too few cells, and the precision (C, C) about them."""
    scores, n_classes = _centred(logits), logits.shape[1]
    centres, rest = np.full((n_classes, n_classes), np.nan), []
    for code in np.unique(truth):
        own = scores[truth == code]
        if len(own) >= MIN_OWN - 1:  # one less: a part may be held out
            centres[code] = own.mean(axis=0)
            rest.append(own - centres[code])
    covariance = np.cov(np.concatenate(rest).T) if rest else np.eye(n_classes)
    level = np.trace(covariance) / n_classes + 1e-12
    return centres, np.linalg.inv((1 - SHRINK) * covariance + SHRINK * level * np.eye(n_classes))


def _closeness(logits: np.ndarray, called: np.ndarray, centres: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(B,) minus the squared distance to the nearest centre; NaN where the called class has none."""
    met = ~np.isnan(centres).any(axis=1)
    if not met.any():
        return np.full(len(logits), np.nan)
    scores = _centred(logits)
    nearest = np.full(len(scores), np.inf)
    for centre in centres[met]:
        gap = scores - centre
        nearest = np.minimum(nearest, ((gap @ precision) * gap).sum(axis=1))
    return np.where(met[called], -nearest, np.nan)
