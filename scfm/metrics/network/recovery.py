"""How well edge scores recover a reference of regulators and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reference:
    """Known edges among candidates.

    Attributes:
        truth: (F, G) bool, regulator × target.
        candidates: (F, G) bool, pairs that count; an edge that is no candidate does not count either.
    """

    truth: np.ndarray
    candidates: np.ndarray

    def __post_init__(self) -> None:
        assert self.truth.shape == self.candidates.shape, "one truth for each candidate"

    def select(self, regulators: np.ndarray) -> Reference:
        """Only some of the regulators."""
        return Reference(self.truth[regulators], self.candidates[regulators])

    @property
    def prevalence(self) -> float:
        """Share of the candidates that are edges: the precision of a guess."""
        n = self.candidates.sum()
        return float((self.truth & self.candidates).sum() / n) if n else float("nan")


class Ranking:
    """Candidates in the order of a score, so that a metric under many weightings of regulators costs one sum each.

    Args:
        scores: (F, G); NaN ranks last.
        reference: of the same shape.
    """

    def __init__(self, scores: np.ndarray, reference: Reference) -> None:
        regulator, target = np.nonzero(reference.candidates)
        values = scores[regulator, target]
        lowest = np.nanmin(values, initial=0.0) - 1.0
        values = np.where(np.isfinite(values), values, lowest)
        order = np.argsort(-values, kind="stable")
        self.regulator, self.truth = regulator[order], reference.truth[regulator, target][order]
        ordered = values[order]
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # ties share one threshold

    def average_precision(self, weight: np.ndarray) -> float:
        """Area under the precision-recall curve as a step function (scikit-learn's), regulators weighted (F,)."""
        tokens = weight[self.regulator]
        hits, all_ = np.cumsum(tokens * self.truth)[self.ends], np.cumsum(tokens)[self.ends]
        if hits[-1] == 0:
            return float("nan")
        precision = np.divide(hits, all_, out=np.zeros(len(hits)), where=all_ > 0)
        return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])

    def ratio(self, weight: np.ndarray) -> float:
        """Average precision divided by that of a random order."""
        tokens = weight[self.regulator]
        return self.average_precision(weight) / float((tokens * self.truth).sum() / tokens.sum())

    def early_precision(self) -> float:
        """Precision among the first k candidates, k the number of true edges; ties count by their share."""
        wanted = int(self.truth.sum())
        hits, all_ = np.cumsum(self.truth)[self.ends], self.ends + 1
        return float(np.interp(wanted, np.append(0, all_), np.append(0, hits)) / wanted) if wanted else float("nan")


def recovery(scores: np.ndarray, reference: Reference) -> dict[str, float]:
    """Figures of one score.

    Args:
        scores: (F, G).
        reference: of the same shape, with at least one edge.

    Returns:
        ``auprc``, ``auprc_ratio`` (1 is a random order), ``early_precision`` and ``early_ratio`` over the prevalence
        (Pratapa et al. 2020, BEELINE).
    """
    ranking, weight = Ranking(scores, reference), np.ones(len(scores))
    early = ranking.early_precision()
    return {
        "auprc": ranking.average_precision(weight),
        "auprc_ratio": ranking.ratio(weight),
        "early_precision": early,
        "early_ratio": early / reference.prevalence,
    }


@dataclass(frozen=True)
class Gain:
    """What the best of some scores adds to the best of others.

    Attributes:
        gain: difference of AUPRC ratios on regulators that chose neither.
        low, high: its 95 % interval over resamples of regulators.
        chosen: the two scores chosen in each fold.
        n_regulators: how many were resampled.
    """

    gain: float
    low: float
    high: float
    chosen: tuple[tuple[str, str], ...]
    n_regulators: int


def held_out_gain(
    ours: Mapping[str, np.ndarray],
    rivals: Mapping[str, np.ndarray],
    reference: Reference,
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> Gain:
    """The best of our scores against the best rival, each chosen on regulators that are not judged.

    Regulators with an edge are cut into two halves at random; the scores that are best on one half are compared on the
    other, and the two differences are averaged. The interval resamples the judged regulators with both scores paired.

    Args:
        ours: scores (F, G) by name.
        rivals: likewise.
        reference: known edges.
        n_draws: resamples.
        seed: of halves and resamples.

    Raises:
        ValueError: fewer than four regulators have an edge.
    """
    able = np.flatnonzero((reference.truth & reference.candidates).any(axis=1))
    if len(able) < 4:
        raise ValueError(
            f"{len(able)} regulators of the reference have a target among the genes; two halves need at least 4: take "
            "more genes, or another reference"
        )
    rng = np.random.default_rng(seed)
    halves = np.array_split(rng.permutation(able), 2)
    chosen, gains, draws = [], [], []
    for judged, choosing in (halves, halves[::-1]):
        pair = _best(ours, reference, choosing), _best(rivals, reference, choosing)
        part = reference.select(judged)
        mine, other = Ranking(ours[pair[0]][judged], part), Ranking(rivals[pair[1]][judged], part)
        weights = rng.multinomial(len(judged), np.full(len(judged), 1 / len(judged)), size=n_draws)
        chosen.append(pair)
        gains.append(mine.ratio(np.ones(len(judged))) - other.ratio(np.ones(len(judged))))
        draws.append([mine.ratio(weight) - other.ratio(weight) for weight in weights.astype(np.float64)])
    low, high = np.nanquantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Gain(float(np.mean(gains)), float(low), float(high), tuple(chosen), len(able))


def _best(scores: Mapping[str, np.ndarray], reference: Reference, regulators: np.ndarray) -> str:
    part, weight = reference.select(regulators), np.ones(len(regulators))
    return max(scores, key=lambda name: Ranking(scores[name][regulators], part).ratio(weight))
