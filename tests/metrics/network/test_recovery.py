"""Recovery of a reference against scikit-learn, and gains with paired intervals."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from scfm.metrics.network.recovery import Ranking, Reference, held_out_gain, recovery


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    candidates = np.ones((12, 40), dtype=bool)
    candidates[np.arange(12), np.arange(12)] = False
    return Reference(rng.random((12, 40)) < 0.15, candidates)


def test_average_precision_is_scikit_learns_with_ties_and_weights(reference):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (12, 40)).astype(float)
    weight = rng.integers(0, 4, 12).astype(float)
    use = reference.candidates
    theirs = average_precision_score(
        reference.truth[use], scores[use], sample_weight=np.repeat(weight, 40).reshape(12, 40)[use]
    )
    assert Ranking(scores, reference).average_precision(weight) == pytest.approx(theirs)


def test_a_perfect_and_a_random_score(reference):
    perfect = recovery(reference.truth.astype(float), reference)
    assert perfect["auprc"] == 1 and perfect["early_precision"] == 1
    assert perfect["auprc_ratio"] == pytest.approx(1 / reference.prevalence)
    ratios = [recovery(np.random.default_rng(s).random((12, 40)), reference)["auprc_ratio"] for s in range(20)]
    assert 0.9 < np.mean(ratios) < 1.3
    constant = recovery(np.zeros((12, 40)), reference)
    assert constant["auprc_ratio"] == pytest.approx(1) and constant["early_ratio"] == pytest.approx(1)


def test_missing_scores_rank_last(reference):
    scores = np.where(reference.truth, np.nan, 0.0)
    assert recovery(scores, reference)["early_precision"] == 0


def noisy(reference, noise, seed):
    return reference.truth + np.random.default_rng(seed).normal(0, noise, reference.truth.shape)


def test_gain_names_the_better_side_and_its_interval_excludes_zero(reference):
    ours = {"good": noisy(reference, 0.5, 1), "useless": noisy(reference, 50, 2)}
    gain = held_out_gain(ours, {"weak": noisy(reference, 1.5, 3)}, reference, n_draws=200)
    assert gain.gain > 0 and gain.low > 0 and {mine for mine, _ in gain.chosen} == {"good"}
    back = held_out_gain({"weak": noisy(reference, 1.5, 3)}, ours, reference, n_draws=200)
    assert back.gain == pytest.approx(-gain.gain) and back.high < 0


def test_many_useless_scores_gain_nothing_by_choice(reference):
    gains = []
    for seed in range(20):
        many = {str(i): np.random.default_rng(100 * seed + i).random((12, 40)) for i in range(15)}
        gains.append(
            held_out_gain(
                many, {"one": np.random.default_rng(seed).random((12, 40))}, reference, n_draws=20, seed=seed
            ).gain
        )
    assert abs(np.mean(gains)) < 0.25  # the best of 15 on its own regulators would look better than one


def test_few_regulators_are_refused(reference):
    few = Reference(reference.truth & (np.arange(12) < 3)[:, None], reference.candidates)
    with pytest.raises(ValueError, match="3 regulators of the reference"):
        held_out_gain({"a": np.zeros((12, 40))}, {"b": np.zeros((12, 40))}, few)
