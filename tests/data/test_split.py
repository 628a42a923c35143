"""Splits do not leak groups, are stable, and refuse what cannot be split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.data.split import split_rows


@given(st.lists(st.integers(0, 8), min_size=30, max_size=200), st.integers(0, 10))
@settings(deadline=None)
def test_groups_stay_whole_and_every_cell_has_a_part(codes, seed):
    groups = np.array([*codes, 0, 1, 2, 3])
    split = split_rows(len(groups), val=0.1, test=0.2, seed=seed, group="donor", groups=groups)
    parts = [split.train, split.val, split.test]
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    of_part = [set(groups[part]) for part in parts]
    assert all(of_part)
    assert not (of_part[0] & of_part[1] or of_part[0] & of_part[2] or of_part[1] & of_part[2])


def test_random_split_says_that_it_may_leak(caplog):
    split = split_rows(1000, val=0.1, test=0.2, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (700, 100, 200)
    assert "one donor may be on both sides" in caplog.text


def test_same_arguments_same_split():
    groups = np.repeat(np.arange(20), 50)
    one, two = (split_rows(1000, val=0.1, test=0.1, seed=3, group="d", groups=groups) for _ in range(2))
    np.testing.assert_array_equal(one.val, two.val)
    assert abs(len(one.val) - 100) <= 50


def test_refusals():
    with pytest.raises(ValueError, match="has 2 group"):
        split_rows(10, val=0.1, test=0.1, seed=0, group="donor", groups=np.arange(10) % 2)
    with pytest.raises(ValueError, match="shares of the cells"):
        split_rows(10, val=0.6, test=0.5, seed=0)
