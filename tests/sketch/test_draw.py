"""Chances, draws and weights: exact sums, unbiased counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.sketch.draw import draw_systematic, inclusion_chances, share_out


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.data())
@settings(deadline=None, max_examples=60)
def test_chances_sum_to_n_and_as_many_cells_are_drawn(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    chances = inclusion_chances(np.array(scores), n)
    assert chances.sum() == pytest.approx(n, rel=1e-6) and (chances > 0).all() and (chances <= 1 + 1e-9).all()
    drawn = draw_systematic(chances, np.random.default_rng(0))
    assert len(np.unique(drawn)) == n


def test_chances_are_proportional_until_they_are_sure():
    chances = inclusion_chances(np.array([1.0, 2.0, 3.0, 4.0]), 1)
    np.testing.assert_allclose(chances, [0.1, 0.2, 0.3, 0.4], atol=2e-3)
    assert inclusion_chances(np.array([1.0, 1.0, 100.0]), 2) == pytest.approx([0.5, 0.5, 1.0], abs=0.05)


def test_weights_give_back_the_number_of_cells():
    rng = np.random.default_rng(0)
    rare = np.arange(2000) < 60
    chances = inclusion_chances(np.where(rare, 9.0, 1.0), 200)
    found = []
    for _ in range(200):
        drawn = draw_systematic(chances, rng)
        found.append((rare[drawn].sum(), (rare[drawn] / chances[drawn]).sum()))
    plain, weighted = np.mean(found, axis=0)
    assert weighted == pytest.approx(60, rel=0.05)
    assert plain > 5 * 200 * 60 / 2000  # unweighted, the sketch overstates them


def test_groups_give_alike_and_small_ones_all():
    assert share_out(np.array([5, 100, 100]), 65).tolist() == [5, 30, 30]
    assert share_out(np.array([5, 100, 7]), 112).tolist() == [5, 100, 7]
    assert share_out(np.array([3, 3]), 1).sum() == 1
