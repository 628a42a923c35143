"""Neighbors that are found once for several metrics are those that each would find alone."""

import numpy as np
import pytest

from scfm.metrics import neighbors as module
from scfm.metrics.neighbors import find_neighbors, remember_neighbors


@pytest.fixture
def searches(monkeypatch):
    """Counts the searches."""
    made = []
    original = module.NearestNeighbors

    def counted(*args, **kwargs):
        made.append(kwargs["n_neighbors"])
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "NearestNeighbors", counted)
    return made


def same(one, two):
    return np.array_equal(one.indices, two.indices) and np.allclose(one.distances, two.distances, atol=1e-6)


def test_fewer_neighbors_of_the_same_cells_are_not_searched_again(searches):
    points = np.random.default_rng(0).normal(size=(200, 8))
    alone = [find_neighbors(points, k) for k in (90, 26, 16)]
    assert searches == [90, 26, 16]
    with remember_neighbors():
        together = [find_neighbors(points.copy(), k) for k in (90, 26, 16)]
        assert searches == [90, 26, 16, 90]
        find_neighbors(points, 120)
        assert searches[-1] == 120
    assert all(map(same, alone, together))
    find_neighbors(points, 16)
    assert searches[-1] == 16, "nothing is remembered outside"


def test_other_cells_other_types_and_other_distances_are_searched_for_themselves(searches):
    points = np.random.default_rng(1).normal(size=(100, 4))
    given = [points, points + 1, points[:50], points[:, :2], points.astype(np.float32), points[::-1]]
    alone = [find_neighbors(values, 20) for values in given] + [find_neighbors(points, 20, metric="cosine")]
    with remember_neighbors():
        together = [find_neighbors(values, 20) for values in given] + [find_neighbors(points, 20, metric="cosine")]
    assert len(searches) == 14
    assert all(map(same, alone, together))


def test_what_is_remembered_ends_with_an_error(searches):
    points = np.random.default_rng(2).normal(size=(30, 4))

    @remember_neighbors()
    def failing():
        find_neighbors(points, 5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    find_neighbors(points, 5)
    assert searches == [5, 5]
