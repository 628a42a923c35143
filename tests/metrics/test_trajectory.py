import numpy as np
import pytest

from scfm.metrics.trajectory import conservation, trajectory_scores


def test_order_by_hand_with_an_unreached_cell():
    found = trajectory_scores(np.array([0.1, 0.3, 0.2, np.inf]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert found == pytest.approx({"spearman": 0.5, "kendall": 1 / 3, "unreached": 0.25})


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
