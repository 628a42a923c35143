"""Seconds and memory of a method; scores between controls; few-shot draws."""

import time

import numpy as np
import pandas as pd
import pytest

from scfm.evaluation.annotation import draw_labels
from scfm.evaluation.methods.cost import Cost, measure
from scfm.evaluation.scores import scale_by_controls
from scfm.metrics.integration import leiden_nmi
from scfm.metrics.neighbors import find_neighbors


def test_memory_that_was_given_back_counts_too():
    with Cost() as cost:
        block = np.ones(15_000_000)
        time.sleep(0.1)
        del block
    assert 100 < cost.megabytes < 250
    assert 0.1 < cost.seconds < 5


def test_every_function_is_measured_by_name():
    values, costs = measure({"slow": lambda: time.sleep(0.05), "fast": lambda: 3})
    assert values == {"slow": None, "fast": 3}
    assert costs.loc["slow", "seconds"] > 0.05 > costs.loc["fast", "seconds"]
    assert list(measure({})[1].columns) == ["seconds", "megabytes"]


def test_scores_lie_between_the_controls():
    table = pd.DataFrame({"bio": [0.2, 1.0, 0.6, 0.1], "same": [0.5, 0.5, 0.7, 0.2]}, index=["bad", "good", "X", "Y"])
    scaled = scale_by_controls(table, ["bad", "good"])
    assert list(scaled.index) == ["X", "Y"]
    np.testing.assert_allclose(scaled["bio"], [0.5, -0.125])
    assert scaled["same"].isna().all()
    near = pd.DataFrame({"batch": [0.96, 0.99, 0.2]}, index=["bad", "good", "X"])
    assert scale_by_controls(near, ["bad", "good"])["batch"].isna().all(), "a distance of 0.03 is no scale"


def test_few_labels_are_the_share_and_leave_no_class_out():
    codes = np.r_[np.zeros(95, int), np.ones(4, int), 2]
    rows = np.arange(100)
    drawn = draw_labels(rows, codes, 0.1, seed=1)
    assert 10 <= len(drawn) <= 12
    assert set(codes[drawn]) == {0, 1, 2}
    np.testing.assert_array_equal(draw_labels(rows, codes, 1.0, seed=1), rows)
    np.testing.assert_array_equal(drawn, draw_labels(rows, codes, 0.1, seed=1))


def test_leiden_finds_separate_groups_and_repeats_itself(blobs):
    pytest.importorskip("igraph")
    embedding, labels, _ = blobs
    near = find_neighbors(embedding, 15)
    first = leiden_nmi(near, labels)
    assert first > 0.95
    assert first == leiden_nmi(near, labels)
