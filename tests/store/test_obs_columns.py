"""Every value of an obs column has one exact text; what has no code is missing, and nothing else."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm.store.obs_columns import Coder, merge_columns, survey_columns, value_text, warn_of_like_names

LARGE = [1014900001, 1014900002, 1014900033]


def coded(values: pd.Series, group: str | None = None, window: int = 2) -> list[str | None]:
    """Survey a column in windows, encode it, and read the codes back as texts."""
    obs = pd.DataFrame({"x": values})
    windows = [obs[i : i + window] for i in range(0, len(obs), window)]
    table = survey_columns(lambda: windows, ["x"], [group] if group else [], "f.h5ad").get("x")
    codes = Coder({"x": table})(obs)["x"]
    if table is None:
        return [None if np.isnan(code) else repr(float(code)) for code in codes]
    return [None if code < 0 else table[code] for code in codes]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([1.0, 2.0, np.nan]).astype("category"), ["1", "2", None]),
        (pd.Series([1, 2, 1]).astype("category"), ["1", "2", "1"]),
        (pd.Series([0.1, 0.25], dtype="float32").astype("category"), ["0.1", "0.25"]),
        (pd.Series([True, False]).astype("category"), ["True", "False"]),
        (pd.Series([True, None], dtype="boolean"), ["True", None]),
        (pd.Series(["a", None], dtype="string"), ["a", None]),
        (pd.Series([1, True, 1.0, "b", b"b", None], dtype=object), ["1", "True", "1", "b", "b", None]),
        (pd.Series(LARGE), [*map(str, LARGE)]),
        (pd.Series([5, 6, *LARGE]), ["5", "6", *map(str, LARGE)]),
        (pd.Series([*map(float, LARGE), np.nan]), [*map(str, LARGE), None]),
        (pd.Series([*LARGE, None], dtype="Int64"), [*map(str, LARGE), None]),
        (pd.Series([2**63 + 5, 1], dtype="uint64"), ["9223372036854775813", "1"]),
        (pd.Series([1e22, 1.0]).astype("category"), ["10000000000000000000000", "1"]),
        (pd.Series([3, 4, 1 << 24]), ["3.0", "4.0", "16777216.0"]),
        (pd.Series([0.5, 1e9 + 0.5]), ["0.5", "1000000000.0"]),
        (pd.Series([-(2**63), 5, 2**63 - 1]), ["-9223372036854775808", "5", "9223372036854775807"]),
        (pd.Series([1 + 2j, 1 + 3j]), ["(1+2j)", "(1+3j)"]),
        (pd.Series([np.nan, np.nan, np.nan, 7.0]), [None, None, None, "7.0"]),
    ],
    ids=repr,
)
def test_survey_and_encoding_agree(values, expected):
    assert coded(values) == expected


@pytest.mark.parametrize("dtype", ["int64", "float64", "category", "object", "Int64"])
def test_large_numbers_of_a_group_stay_apart(dtype):
    assert coded(pd.Series(LARGE).astype(dtype), group="x") == [*map(str, LARGE)]


def lists(kind, dtype):
    return st.lists(st.one_of(st.none(), kind), max_size=20).map(lambda column: pd.Series(column, dtype=dtype))


values = st.one_of(
    lists(st.integers(-(2**62), 2**62), "Int64"),
    lists(st.floats(allow_infinity=False), "float64"),
    lists(st.text(max_size=3), "object"),
    lists(st.booleans(), "boolean"),
)


@given(values, st.booleans(), st.integers(1, 20))
def test_each_value_comes_back_as_its_own_text(column, as_category, window):
    column = column.astype("category") if as_category else column
    expected = [None if pd.isna(value) else value_text(value) for value in column]
    assert coded(column, "x", window) == expected


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=20))
def test_integers_without_a_group_are_never_merged(column):
    assert len(set(coded(pd.Series(column, dtype="int64")))) == len(set(column))


def test_words_for_missing_values_are_missing_and_said(caplog):
    column = pd.Series(["T", "nan", "", "None", "NA", " "], dtype=object)
    assert coded(column) == ["T", None, None, None, "NA", None]
    assert coded(column.astype("category"), window=9) == ["T", None, None, None, "NA", None]
    assert "'nan' (1 cells)" in caplog.text
    assert "'NA' (1 cells) are taken as a class" in caplog.text


@pytest.mark.parametrize("other", ["T cell ", "t cell", "T  cell", " T cell", "T\tcell"])
def test_classes_that_look_alike_are_said_and_stay_apart(other, caplog):
    column = pd.Series(["T cell", other, "B", "b2"])
    assert coded(column) == list(column)
    warn_of_like_names({"x": sorted(column), "y": None, "z": ["a", "b"]})
    (record,) = caplog.records
    assert "'x' has classes whose names differ by blanks, case or encoding alone" in record.message
    assert repr("T cell") in record.message
    assert repr(other) in record.message


def test_letters_in_two_encodings_look_alike(caplog):
    warn_of_like_names({"x": ["Z\u00fcrich", "Zu\u0308rich"]})
    assert len(caplog.records) == 1


def test_true_classes_are_not_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        assert coded(pd.Series(["T", "B", "nano", None])) == ["T", "B", "nano", None]
    assert not caplog.records


@pytest.mark.parametrize("empty", [pd.Series([np.nan] * 3), pd.Series([None] * 3, dtype=object)])
@pytest.mark.parametrize("other", [pd.Series(["T", "B"]), pd.Series([1.5, 2.5])])
def test_a_column_without_values_fits_names_and_numbers(empty, other):
    surveys = [(name, survey_columns(lambda v=v: [pd.DataFrame({"x": v})], ["x"], [], name)) for name, v in
               (("one", empty), ("two", other))]  # fmt: skip
    codes = Coder(merge_columns(surveys))(pd.DataFrame({"x": empty}))["x"]
    assert (codes == -1).all() if other.dtype == object else np.isnan(codes).all()


def test_a_value_without_a_code_is_an_error():
    with pytest.raises(ValueError, match="'x' has 1 values that the survey did not see, first 'C'"):
        Coder({"x": ["A", "B"]})(pd.DataFrame({"x": ["A", None, "C"]}))
    with pytest.raises(ValueError, match="'x' has 2 values that the survey did not see"):
        Coder({"x": None})(pd.DataFrame({"x": ["A", "B"]}))


def test_numbers_and_names_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"numbers in one but names in two.*categories=\[x\]"):
        merge_columns([("one", {"x": None}), ("two", {"x": ["a"]})])
    with pytest.raises(ValueError, match="numbers in the store but names in two; .* into a new store"):
        merge_columns([("two", {"x": ["a"]})], {"x": None})
