"""What a file may hold as plain values, and what it may not."""

import pytest

from scfm.trust.plain import MAX_DEPTH, MAX_VALUES, plain_fault


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times):
    """A few lists that stand for 2 to the power of ``times`` values."""
    value = ["x", "x"]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, 1, 2**63, "text", [], {}, {"a": [1, 2.5, None, True, "b", {"c": []}]}, [[], [[]]], nested(MAX_DEPTH - 1)],
)
def test_plain_values_have_no_fault(value):
    assert plain_fault(value) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (nested(MAX_DEPTH + 1), "is nested more than 64 deep"),
        (doubled(40), "has more than 5,000,000 values"),
        (["x"] * (MAX_VALUES + 1), "has more than 5,000,000 values"),
        ({"a": {1: "b"}}, "has a key that is no text"),
        (["x", 1 << 65], "has a number of 66 bits"),
        (["x"] * 1000 + [{1, 2}], "holds set; expected numbers"),
        ([("a",)], "holds tuple; expected numbers"),
    ],
)
def test_anything_else_is_named(value, fault):
    assert plain_fault(value).startswith(fault)


def test_keys_and_leaves_that_a_reader_allows():
    assert plain_fault({1: b"x"}, keys=(str, int), leaves=(bytes,)) is None
    assert plain_fault([b"x"]) is not None
