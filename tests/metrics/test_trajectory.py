import numpy as np
import pytest
from scipy.stats import somersd

from scfm.metrics.trajectory import bootstrap_concordance, concordance, conservation, trajectory_scores


def test_order_by_hand_with_an_unreached_cell():
    found = trajectory_scores(np.array([0.1, 0.3, 0.2, np.inf]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert found == pytest.approx({"concordance": 2 / 3, "spearman": 0.5, "kendall": 1 / 3, "unreached": 0.25})


def test_any_monotone_change_keeps_the_scores():
    time = np.random.default_rng(0).random(40)
    stage = np.floor(time * 5)
    assert trajectory_scores(np.exp(5 * time), stage) == pytest.approx(trajectory_scores(time, stage))


def test_conservation_of_the_same_order_is_one_and_of_the_reverse_zero():
    time, batch = np.linspace(0, 1, 30), np.arange(30) % 3
    assert conservation(time, time * 2, batch)["conservation"] == pytest.approx(1)
    assert conservation(time, -time, batch)["conservation_by_batch"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("time", "stage", "words"),
    [
        (np.ones(5), np.arange(5.0), "the pseudotime is 1 in all cells"),
        (np.arange(5.0), np.ones(5), "the stage is 1 in all cells"),
        (np.full(5, np.inf), np.arange(5.0), "0 cells have both"),
    ],
)
def test_refuses_what_has_no_order(time, stage, words):
    with pytest.raises(ValueError, match=words):
        trajectory_scores(time, stage)


def _pairs(time, truth):
    """The definition, pair by pair."""
    right = total = 0.0
    for i in range(len(truth)):
        for j in range(i):
            if truth[i] != truth[j]:
                gap = (time[i] - time[j]) * (truth[i] - truth[j])
                right, total = right + (gap > 0) + (gap == 0) / 2, total + 1
    return right / total


@pytest.mark.parametrize("seed", range(4))
def test_concordance_is_the_share_of_pairs_of_different_stages_in_order(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=60).astype(float)
    time = np.round(truth + rng.normal(0, 1.5, 60), seed % 2)  # with and without ties
    assert concordance(time, truth) == pytest.approx(_pairs(time, truth))
    assert 2 * concordance(time, truth) - 1 == pytest.approx(somersd(truth, time).statistic)


def test_stages_in_perfect_order_score_1_whatever_the_order_inside_them():
    truth = np.repeat([0.0, 1.0, 2.0], 50)
    time = truth + np.random.default_rng(0).uniform(0, 0.9, 150)
    found = trajectory_scores(time, truth)
    assert found["concordance"] == 1.0
    assert found["spearman"] < 0.95  # no number without ties can reach 1
    assert trajectory_scores(-time, truth)["concordance"] == 0.0
    assert concordance(np.r_[np.zeros(75), np.ones(75)], np.tile([0.0, 1.0, 2.0], 50)) == pytest.approx(0.5)


def test_resamples_of_whole_donors_vary_more_than_those_of_cells():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 40)
    truth = rng.integers(3, size=320).astype(float)
    time = truth * np.array([1, 1, -1, 1, 1, -1, 1, 1])[groups] + rng.normal(0, 0.5, 320)
    cells, donors = (bootstrap_concordance(time, truth, owner) for owner in (None, groups))
    assert donors.std() > 2 * cells.std()
    assert np.median(cells) == pytest.approx(concordance(time, truth), abs=0.02)
    np.testing.assert_array_equal(donors, bootstrap_concordance(time, truth, groups))
    assert concordance(np.ones(320), truth) == 0.5
