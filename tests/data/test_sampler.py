"""Composed micro-batches: one experimental batch each, every cell once, neighbours together."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.data.sampler import ComposedOrder
from scfm.types import Sampling


@st.composite
def made(draw):
    n = draw(st.integers(8, 200))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    lengths = rng.integers(1, 50, n)
    groups = rng.integers(-1, draw(st.integers(1, 4)), n)
    rows = rng.permutation(3 * n)[:n]
    table = None
    if draw(st.booleans()):
        table = np.full((3 * n, 5), -1)
        table[rows] = rng.choice(rows, (n, 5))
    sampling = Sampling("batch", table, draw(st.sampled_from([0.0, 0.3, 0.5])), draw(st.sampled_from([1, 3])))
    return rows, lengths, groups, sampling, draw(st.integers(int(lengths.max()), 300)), draw(st.sampled_from([1, 2]))


@given(made(), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_every_cell_once_in_a_batch_of_its_own_group_under_the_budget(made, epoch):
    rows, lengths, groups, sampling, tokens, multiple = made
    try:
        order = ComposedOrder(rows, lengths, groups, sampling, tokens=tokens, multiple=multiple)
    except ValueError as error:
        assert "too few" in str(error)
        return
    plan = order.epoch(epoch)
    assert len(plan) == len(order)
    assert len(order) % multiple == 0
    assert sorted(plan.rows) == sorted(rows)
    length, group = dict(zip(rows, lengths, strict=True)), dict(zip(rows, groups, strict=True))
    for step in range(len(plan)):
        assert len({group[row] for row in plan[step]}) == 1
        assert sum(length[row] for row in plan[step]) <= tokens


def test_a_pure_function_of_seed_and_epoch():
    rows, lengths, groups = np.arange(300), np.full(300, 10), np.arange(300) % 3
    one, two, other = (ComposedOrder(rows, lengths, groups, Sampling("b"), tokens=100, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.epoch(3).rows, two.epoch(3).rows)
    assert (one.epoch(3).rows != one.epoch(4).rows).any()
    assert (one.epoch(3).rows != other.epoch(3).rows).any()
    still = ComposedOrder(rows, lengths, groups, Sampling("b"), tokens=100, shuffle=False)
    np.testing.assert_array_equal(still.epoch(0).rows, still.epoch(5).rows)


@pytest.mark.parametrize(("share", "companions"), [(0.5, 1), (0.3, 10)])
def test_neighbours_come_together(share, companions):
    rows = np.arange(400)
    # cell i belongs with the 19 others of i // 20; by chance the largest clique of 40 cells has 5 or 6 of one kind
    table = np.array([[j for j in range(20 * (i // 20), 20 * (i // 20) + 20) if j != i] for i in rows])

    def alike(sampling):
        plan = ComposedOrder(rows, np.full(400, 10), np.zeros(400), sampling, tokens=410).epoch(0)
        kinds = [np.bincount(plan[step] // 20, minlength=20) for step in range(len(plan))]
        return np.mean([(kind * (kind - 1)).sum() / kind.sum() for kind in kinds])  # companions of a cell, on average

    chance, drawn = alike(Sampling()), alike(Sampling(None, table, share, companions))
    assert drawn > chance + min(0.7, 0.5 * share * companions)


def test_tiny_groups_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        ComposedOrder(np.arange(22), np.full(22, 10), np.array([0] * 20 + [1] * 2), Sampling("b"), tokens=100)
    assert "fewer than 4 cells" in caplog.text


def test_refuses_too_few_cells_for_a_step():
    with pytest.raises(ValueError, match="3 cells, too few for micro-batches in multiples of 4"):
        ComposedOrder(np.arange(3), np.full(3, 5), np.zeros(3), Sampling("b"), tokens=100, multiple=4)
