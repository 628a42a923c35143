"""The output layer of one label column: scores, loss, calibration, names."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.annotation.calibrate import fit_temperature, fit_thresholds
from scfm.head.annotation.conformal import fit_limit, name_sets
from scfm.head.annotation.familiarity import Familiarity
from scfm.head.annotation.state_distance import StateDistance
from scfm.head.block_regression import BlockRegression
from scfm.head.logistic import EITHER, Penalty
from scfm.metrics.classification import keep_labeled, softmax
from scfm.types import Spec

log = logging.getLogger(__name__)

#: The name of a cell that is not familiar enough.
UNKNOWN = "unknown"


class Prediction(NamedTuple):
    """Names that a head predicts for cells, (B,) each.

    Attributes:
        names: the likeliest class; ``unknown`` where the cell is not familiar enough or has no gene of the vocabulary.
        guess: the likeliest class in any case; ``unknown`` for a cell without genes alone.
        confidence: float32, probability of the likeliest class; NaN for a cell without genes.
        novelty: float32, by which ``unknown`` is decided; NaN for a cell without genes.
        sets: names that together hold the true one with a stated probability, joined by ``|``; None for no sets
            (:mod:`scfm.head.annotation.conformal`).
    """

    names: np.ndarray
    guess: np.ndarray
    confidence: np.ndarray
    novelty: np.ndarray
    sets: np.ndarray | None = None

    def columns(self, label: str) -> dict[str, np.ndarray]:
        """As obs columns ``scfm_<label>`` and ``scfm_<label>_guess, _confidence, _novelty``, and ``_set`` of sets."""
        name = f"scfm_{label}"
        more = {} if self.sets is None else {f"{name}_set": self.sets}
        return {
            name: self.names,
            f"{name}_guess": self.guess,
            f"{name}_confidence": self.confidence,
            f"{name}_novelty": self.novelty,
            **more,
        }


def name_cells(
    names: list[str], called: np.ndarray, familiar: np.ndarray, confidence: np.ndarray, novelty: np.ndarray
) -> Prediction:
    """Names of cells from class codes.

    Args:
        names: names of the classes.
        called: (B,) class codes.
        familiar: (B,) bool, False for ``unknown``.
        confidence: (B,), NaN for a cell without genes.
        novelty: (B,).
    """
    empty = np.isnan(confidence)
    classes = np.array([*names, UNKNOWN], dtype=object)
    return Prediction(
        names=classes[np.where(familiar & ~empty, called, -1)],
        guess=classes[np.where(empty, -1, called)],
        confidence=confidence.astype(np.float32),
        novelty=np.where(empty, np.nan, novelty).astype(np.float32),
    )


#: The weight of a class is within this factor of that of an average cell.
MAX_WEIGHT = 10.0


def check_classes(spec: Spec, label: str) -> np.ndarray:
    """Count the labeled training cells of each class of a column, and refuse columns that cannot be learned.

    Args:
        spec: classes and their counts.
        label: obs column.

    Returns:
        (C,) float64 counts; ones where the spec has none (a head loaded from a checkpoint).

    Raises:
        ValueError: no such column, fewer than two classes, or no labeled cell.
    """
    names = spec.categories("head.label", label)
    if UNKNOWN in names:
        log.warning(
            "%s has a class %r, which is also the name of cells that are not familiar: the two cannot be told apart; "
            "rename the class, or remove the label of its cells",
            label,
            UNKNOWN,
        )
    if len(names) < 2:
        have = f"only {names[0]!r}" if names else "none"
        raise ValueError(f"{label!r} has {have} as class; a classifier needs at least two: choose another label")
    if label not in spec.class_counts:
        return np.ones(len(names))
    counts = np.asarray(spec.class_counts[label], dtype=np.float64)
    if counts.sum() == 0:
        raise ValueError(
            f"{label!r} is missing in all {spec.n_cells} training cells; prepare a store whose obs has labels"
        )
    if (counts > 0).sum() < 2:
        only = names[int(counts.argmax())]
        raise ValueError(f"all labeled training cells have {label}={only!r}; a classifier needs at least two classes")
    _warn_rare(label, names, counts)
    return counts


def _warn_rare(label: str, names: tuple[str, ...], counts: np.ndarray) -> None:
    for n_cells, meaning in ((0, "no training cell: never predicted"), (1, "one training cell: rarely learned")):
        rare = [name for name, count in zip(names, counts, strict=True) if count == n_cells]
        if rare:
            log.warning("%s: %d class(es) with %s (%s)", label, len(rare), meaning, ", ".join(rare[:8]))


def class_weight(counts: np.ndarray) -> np.ndarray:
    """Weight of a cell of each class: inverse to the frequency of the class, within [1/10, 10].

    Args:
        counts: (C,) cells of each class.

    Returns:
        n / (C' n_c), (C,), clipped, with C' the number of classes that have cells; 1 for a class without cells.
    """
    present = counts > 0
    weight = np.ones(len(counts))
    weight[present] = counts.sum() / (present.sum() * counts[present])
    return weight.clip(1 / MAX_WEIGHT, MAX_WEIGHT)


class LabelLayer(nn.Module):
    """Scores one label column from cell embeddings.

    Args:
        spec: classes and counts.
        label: obs column.
        width: D of the state that it reads.
        hidden: width of one hidden layer; 0 for a linear classifier.
        dropout: before each linear layer.
        class_weights: whether the weight of a class is inverse to its frequency.
        blocks: widths of the parts of the state that a regression penalizes separately, the backbone's first; empty for
            a single one. Distances to classes are taken in all but the first.
        coverage: probability with which a cell's set of names holds the true one; None for no sets.

    Attributes:
        temperature: () divides the scores; 1 until calibrated.
        thresholds: (C,) familiarity below which calls are ``unknown``; 0 (no rejection) until calibrated.
        limit: () probability from which on a class is in a cell's set; 0 (all classes) until calibrated.

    Raises:
        ValueError: see :func:`check_classes`.
    """

    weight: Tensor
    temperature: Tensor
    thresholds: Tensor
    limit: Tensor

    def __init__(
        self,
        spec: Spec,
        label: str,
        width: int,
        *,
        hidden: int,
        dropout: float,
        class_weights: bool,
        blocks: Sequence[int] = (),
        coverage: float | None = None,
    ) -> None:
        super().__init__()
        self.coverage = coverage
        counts = check_classes(spec, label)
        self.label, self.names = label, spec.classes[label]
        n_classes = len(self.names)
        inner = [nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU()] if hidden else []
        self.layers = nn.Sequential(*inner, nn.Dropout(dropout), nn.Linear(hidden or width, n_classes))
        weight = class_weight(counts) if class_weights else np.ones(n_classes)
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("thresholds", torch.zeros(n_classes))
        self.register_buffer("limit", torch.zeros(()))
        self.familiarity = Familiarity(n_classes)
        self.distance = StateDistance(n_classes, slice(blocks[0] if blocks else width, width))
        self.regression = BlockRegression(blocks or (width,), EITHER)

    @property
    def penalty(self) -> Penalty | None:
        """The penalty of the regression; None until there was one."""
        return self.regression.penalty

    def forward(self, state: Tensor) -> Tensor:
        """Scores, (B, D) -> (B, C) float32."""
        return self.layers(state).float()

    def regress(
        self,
        states: np.ndarray,
        truth: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        trained: np.ndarray | None = None,
    ) -> None:
        """Set the weights to those of a logistic regression of the labeled cells, where the classifier is linear.

        Args:
            states: (n, D) of the cells to learn from.
            truth: (n,) class codes, -1 where missing.
            groups: see :meth:`~scfm.head.block_regression.BlockRegression.regress`.
            trained: the same.
        """
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        if len(self.layers) <= 2:
            self.regression.regress(last, states, truth, groups=groups, trained=trained)

    def loss(self, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy over the labeled cells (-1 = missing), and how many of them there are.

        Σ_i w_{y_i} · (−log softmax(logits_i)_{y_i}) / Σ_i w_{y_i}; 0 (with a gradient) where no cell is labeled.
        """
        known = truth >= 0
        if not known.any():
            return logits.sum() * 0.0, known.sum()
        return F.cross_entropy(logits[known], truth[known], weight=self.weight), known.sum()

    def calibrate(
        self, logits: np.ndarray, truth: np.ndarray, quantile: float, states: np.ndarray | None = None
    ) -> dict[str, float]:
        """Fit temperature and thresholds on cells that were not trained on.

        Args:
            logits: (B, C).
            truth: (B,) class codes, -1 where missing.
            quantile: share of correct calls that may become ``unknown``.
            states: (B, D) of these cells; None decides on ``unknown`` by the scores alone.

        Returns:
            ``temperature`` and ``coverage``, the share of these cells that keep a name.
        """
        far = None if states is None else self.distance.calibrate(states[truth >= 0])
        logits, truth = keep_labeled(logits, truth)
        temperature = fit_temperature(logits, truth)
        probabilities = softmax(logits, temperature)
        familiarity = self.familiarity.fit(logits, truth, temperature)
        familiarity = familiarity if far is None else (familiarity + far) / 2
        thresholds = fit_thresholds(probabilities, truth, quantile, familiarity)
        if self.coverage is not None:
            self.limit.fill_(fit_limit(probabilities, truth, self.coverage))
        self.temperature.fill_(temperature)
        self.thresholds.copy_(torch.from_numpy(thresholds))
        kept = familiarity >= thresholds[probabilities.argmax(axis=1)]
        return {"temperature": temperature, "coverage": float(kept.mean()) if len(kept) else float("nan")}

    def name(self, logits: np.ndarray, states: np.ndarray | None = None) -> Prediction:
        """Names of cells with scores (B, C): ``unknown`` below the threshold of the call; novelty is in [0, 1].

        Familiarity is the mean of that of the scores and, where it was calibrated, that of the distance of the states
        (B, D) to classes.
        """
        probabilities = softmax(logits, self.temperature.item())
        called = probabilities.argmax(axis=1)
        familiarity = self.familiarity.rate(logits, self.temperature.item())
        if states is not None and self.distance.calibrated:
            familiarity = (familiarity + self.distance.rate(states)) / 2
        familiarity = familiarity.astype(np.float32)
        familiar = familiarity >= self.thresholds.cpu().numpy()[called]
        found = name_cells(list(self.names), called, familiar, probabilities.max(axis=1), 1 - familiarity)
        if self.coverage is None:
            return found
        return found._replace(sets=name_sets(probabilities, list(self.names), self.limit.item()))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Checkpoints of before there were distances and sets have none: scores decide there."""
        for name, value in self.distance.state_dict().items():
            state_dict.setdefault(f"{prefix}distance.{name}", torch.full_like(value, torch.nan))
        state_dict.setdefault(f"{prefix}limit", torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *args)
