import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.evaluation.folds import make_folds, read_split


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 99))
def test_every_labeled_cell_is_tested_once_and_groups_stay_whole(n_groups, n_folds, seed):
    rng = np.random.default_rng(seed)
    groups = np.r_[np.arange(n_groups), rng.integers(n_groups, size=80)]
    codes = np.r_[np.arange(n_groups) % 3, rng.integers(-1, 3, size=80)]
    folds = make_folds(codes, groups, n_folds, seed)
    tested = np.concatenate([test for _, test in folds])
    np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(codes >= 0))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert not set(train) & set(test)


@pytest.mark.parametrize(
    ("codes", "groups", "n_folds", "words"),
    [
        ([0, 0, -1], None, 2, "all of one class"),
        ([0, 1, 0], ["a"] * 3, 2, "all labeled cells are of one group"),
        ([0, 1, 0], None, 1, "folds=1"),
    ],
)
def test_refuses_what_cannot_be_split(codes, groups, n_folds, words):
    with pytest.raises(ValueError, match=words):
        make_folds(np.array(codes), None if groups is None else np.array(groups), n_folds, 0)


def test_a_split_of_a_fine_tune_is_kept(tmp_path, caplog):
    path = tmp_path / "split.csv"
    path.write_text("cell,part\na,train\nb,val\nc,test\nx,test\n")
    ((train, test),) = read_split(path, ["c", "b", "a", "new"], np.array([0, 1, 0, 1]))
    assert (train.tolist(), test.tolist()) == ([1, 2], [0])
    assert "1 of 4 cells are not in" in caplog.text


def test_refuses_a_split_of_other_cells_or_columns(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("cell,part\na,train\n")
    with pytest.raises(ValueError, match="leaves 1 labeled training cells and 0 labeled test cells"):
        read_split(path, ["a", "b"], np.array([0, 1]))
    path.write_text("name\na\n")
    with pytest.raises(ValueError, match="expected cell, part"):
        read_split(path, ["a"], np.array([0]))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_split(tmp_path / "no.csv", ["a"], np.array([0]))
