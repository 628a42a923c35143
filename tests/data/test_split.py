"""Splits do not leak groups, are stable, and refuse what cannot be split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.data.module import CellData
from scfm.data.split import split_rows, take_calibration
from scfm.store.token_store import TokenStore
from support import write_made_store


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
    with pytest.raises(ValueError, match=r"calibration=0.5; expected"):
        take_calibration(split_rows(10, val=0.1, test=0.1, seed=0), 0.5, seed=0)


class TestCalibrationCells:
    @staticmethod
    def made(n_groups, share=0.1):
        groups = None if n_groups is None else np.arange(1000) % n_groups
        name = None if groups is None else "donor"
        before = split_rows(1000, val=0.2, test=0.2, seed=0, group=name, groups=groups)
        after = take_calibration(before, share, seed=0, groups=groups)
        parts = [after.train, after.val, after.test, after.calibration]
        assert sorted(np.concatenate(parts)) == list(range(1000))
        np.testing.assert_array_equal(before.test, after.test)
        return before, after, groups

    def test_whole_training_groups_where_there_are_enough(self):
        before, after, groups = self.made(20)
        assert len(after.calibration) == 100
        assert not set(groups[after.calibration]) & set(groups[after.train])
        np.testing.assert_array_equal(before.val, after.val)

    def test_half_the_validation_where_groups_are_few(self):
        before, after, _ = self.made(5, share=0.3)
        assert set(after.calibration) < set(before.val)
        assert len(after.calibration) == len(before.val) // 2
        np.testing.assert_array_equal(before.train, after.train)

    def test_training_cells_without_groups(self):
        before, after, _ = self.made(None)
        assert set(after.calibration) < set(before.train)
        assert len(after.calibration) == 100

    def test_none_when_none_are_wanted(self):
        before, after, _ = self.made(20, share=0.0)
        assert after is before


def test_cells_without_a_group_are_groups_of_their_own_and_said(tmp_path, caplog):
    store = write_made_store(tmp_path / "store")
    obs = store.obs("donor").copy()
    obs[:60] = -1
    store.obs = lambda column: obs if column == "donor" else TokenStore.obs(store, column)
    data = CellData(store, val=0.25, test=0.25)
    assert "60 of 240 cells have no donor: each is a group of its own" in caplog.text
    parts = [set(rows) for rows in (data.split.train, data.split.val, data.split.test)]
    assert sum(map(len, parts)) == 240
    assert sum(bool(part & set(range(60))) for part in parts) > 1
    for donor in range(4):
        assert sum(bool(part & set(np.flatnonzero(obs == donor))) for part in parts) == 1
