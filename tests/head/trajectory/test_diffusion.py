"""Diffusion pseudotime on graphs whose order is known, and fates against a linear solve by hand."""

import logging
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr

from scfm.head.trajectory.diffusion import absorption, diffusion_pseudotime, extreme_cell, neighbor_graph, scale_ranks


def curve(n=150, seed=0):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.random(n))
    return t, np.column_stack([t * 10, np.sin(t * 3), rng.normal(0, 0.05, n)]).astype(np.float32)


def test_pseudotime_follows_a_curve_and_starts_at_the_root():
    t, points = curve()
    found = diffusion_pseudotime(neighbor_graph(points, 10), 0)
    assert found[0] == 0
    assert spearmanr(found, t).statistic > 0.99


def test_the_root_type_gives_its_most_extreme_cell():
    t, points = curve()
    assert t[extreme_cell(neighbor_graph(points, 10), t < 0.3)] < 0.05


def test_cells_that_the_root_does_not_reach_are_missing_and_counted(caplog):
    _, points = curve()
    points = np.concatenate([points, points[:40] + 1000])
    with caplog.at_level(logging.WARNING):
        found = diffusion_pseudotime(neighbor_graph(points, 10), 0)
    assert np.isnan(found[150:]).all()
    assert np.isfinite(found[:150]).all()
    assert "40 of 190 cells are not connected" in caplog.text
    scaled = scale_ranks(found)
    assert np.isnan(scaled[150:]).all()
    assert (np.nanmin(scaled), np.nanmax(scaled)) == (0.0, 1.0)


def test_too_few_cells_are_refused():
    with pytest.raises(ValueError, match="8 training cells are too few for 10 neighbors"):
        neighbor_graph(np.zeros((8, 2)), 10)


def test_absorption_is_the_gamblers_ruin():
    # a path of 5 cells with equal pseudotime: from i the right end is reached first with probability i / 4
    path = csr_matrix(np.eye(5, k=1) + np.eye(5, k=-1))
    found = absorption(path, np.zeros(5), np.array([0, -1, -1, -1, 1]), 2)
    np.testing.assert_allclose(found[:, 1], np.arange(5) / 4, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_absorption_rarely_walks_back():
    # 0 - 1 - 2, with cell 0 early: from 1 the step back has weight 2/sqrt(1+e^(10*0.5))
    path = csr_matrix(np.eye(3, k=1) + np.eye(3, k=-1))
    found = absorption(path, np.array([0.0, 0.5, 1.0]), np.array([0, -1, 1]), 2)
    back = 2 / np.sqrt(1 + np.exp(5))
    assert found[1, 0] == pytest.approx(back / (1 + back), rel=1e-3)


def test_cells_that_reach_no_terminal_state_have_no_fate():
    graph = np.zeros((5, 5))
    graph[0, 1] = graph[1, 0] = graph[3, 4] = graph[4, 3] = 1
    found = absorption(csr_matrix(graph), np.array([0, 0, 0, 0, np.nan]), np.array([0, -1, -1, -1, -1]), 2)
    np.testing.assert_allclose(found[:2], [[1, 0], [1, 0]], atol=1e-4)
    assert np.isnan(found[2:]).all()


def test_without_scanpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(ImportError, match=r"pip install .scfm-framework\[evaluate\]"):
        neighbor_graph(np.zeros((30, 2)), 10)
