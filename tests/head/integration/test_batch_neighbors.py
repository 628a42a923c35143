"""Neighbors in other batches and how much of the cells a batch covers, by hand on a line."""

import numpy as np

from scfm.head.integration.batch_neighbors import batch_coverage, center_batches, mutual_neighbors, nearest_cells

LINE = np.array([[0.0], [1.0], [2.1], [3.3], [10.0], [11.0]])
BATCHES = np.array([0, 0, 1, 1, 2, -1])


def test_neighbors_in_other_batches_by_hand():
    near = nearest_cells(LINE, BATCHES, 2, same_batch=False)
    assert near.tolist() == [[2, 3], [2, 3], [1, 0], [1, 0], [5, 3], [4, 3]]
    assert nearest_cells(LINE[:3], np.array([0, 0, 1]), 2, same_batch=False).tolist() == [[2, -1], [2, -1], [1, 0]]
    assert nearest_cells(LINE, np.zeros(6), 2, same_batch=False).max() == -1


def test_coverage_by_hand():
    # nearest of each: 0-1, 1-0, 2-1, 3-2, 4-5, 5-4
    np.testing.assert_allclose(batch_coverage(LINE, BATCHES, 4, 1), [2 / 6, 3 / 6, 2 / 6, 0])
    np.testing.assert_allclose(batch_coverage(LINE, BATCHES, 3, 5), [1, 1, 1])


def test_partners_of_a_batch_that_lies_far_off_are_found():
    rng = np.random.default_rng(0)
    kind, batches = np.arange(80) % 4, np.arange(80) // 40
    cells = 10 * np.eye(8)[kind] + rng.normal(size=(80, 8)) + 100 * batches[:, None] * np.eye(8)[7]
    far = mutual_neighbors(cells, batches, 5)
    near = mutual_neighbors(center_batches(cells, batches), batches, 5)
    assert (near >= 0).any(axis=1).mean() > (far >= 0).any(axis=1).mean()
    assert (kind[near] == kind[:, None])[near >= 0].all()


def test_centered_batches_are_unit_vectors_whatever_their_shift_and_length():
    rng = np.random.default_rng(1)
    cells, batches = rng.normal(size=(12, 3)), np.arange(12) % 3
    found = center_batches(cells, batches)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(center_batches(5 * cells + rng.normal(size=(3, 3))[batches], batches), found)
    np.testing.assert_allclose(center_batches(np.ones((2, 3)), np.array([0, 1])), 0)  # a batch of one cell
