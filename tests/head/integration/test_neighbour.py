"""Neighbours in other batches and how much of the cells a batch covers, by hand on a line."""

import numpy as np

from scfm.head.integration.neighbour import coverage, other_neighbours

LINE = np.array([[0.0], [1.0], [2.1], [3.3], [10.0], [11.0]])
BATCHES = np.array([0, 0, 1, 1, 2, -1])


def test_neighbours_in_other_batches_by_hand():
    assert other_neighbours(LINE, BATCHES, 2).tolist() == [[2, 3], [2, 3], [1, 0], [1, 0], [5, 3], [4, 3]]
    assert other_neighbours(LINE[:3], np.array([0, 0, 1]), 2).tolist() == [[2, -1], [2, -1], [1, 0]]
    assert other_neighbours(LINE, np.zeros(6), 2).max() == -1


def test_coverage_by_hand():
    # nearest of each: 0-1, 1-0, 2-1, 3-2, 4-5, 5-4
    np.testing.assert_allclose(coverage(LINE, BATCHES, 4, 1), [2 / 6, 3 / 6, 2 / 6, 0])
    np.testing.assert_allclose(coverage(LINE, BATCHES, 3, 5), [1, 1, 1])
