"""The order is a pure function of (seed, epoch, step), whatever the ranks and workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scfm.data.order import Order, batch_seed


@st.composite
def orders(draw):
    lengths = np.array(draw(st.lists(st.integers(1, 50), min_size=1, max_size=200)))
    tokens = draw(st.integers(int(lengths.max()), 300))
    return np.arange(len(lengths)) * 3, lengths, tokens, draw(st.integers(0, 5)), draw(st.booleans())


@given(orders(), st.integers(0, 3))
@settings(deadline=None)
def test_every_cell_once_under_the_budget_and_no_batch_empty(made, epoch):
    rows, lengths, tokens, seed, shuffle = made
    order = Order(rows, lengths, tokens=tokens, seed=seed, shuffle=shuffle)
    plan = order.epoch(epoch)
    batches = [plan[step] for step in range(len(plan))]
    assert len(batches) == len(order)
    assert sorted(np.concatenate(batches)) == sorted(rows)
    by_row = dict(zip(rows, lengths, strict=True))
    for batch in batches:
        assert len(batch) > 0
        assert sum(by_row[row] for row in batch) <= tokens


@given(orders(), st.integers(1, 4))
@settings(deadline=None)
def test_the_number_of_micro_batches_is_a_multiple(made, multiple):
    rows, lengths, tokens, seed, shuffle = made
    try:
        order = Order(rows, lengths, tokens=tokens, multiple=multiple, seed=seed, shuffle=shuffle)
    except ValueError as error:
        assert "too few" in str(error)
        return
    plan = order.epoch(0)
    assert len(plan) % multiple == 0
    assert all(len(plan[step]) for step in range(len(plan)))


def test_same_seed_same_order_other_epoch_other_order():
    rows, lengths = np.arange(500), np.full(500, 10)
    one, two = (Order(rows, lengths, tokens=100, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.epoch(3).rows, two.epoch(3).rows)
    assert (one.epoch(3).rows != one.epoch(4).rows).any()
    assert (one.epoch(3).rows != Order(rows, lengths, tokens=100, seed=8).epoch(3).rows).any()


def test_batches_are_nearly_equal_in_tokens():
    lengths = np.random.default_rng(0).integers(500, 2000, 5000)
    plan = Order(np.arange(5000), lengths, tokens=32_000).epoch(0)
    sizes = np.array([lengths[plan[step]].sum() for step in range(len(plan))])
    assert sizes.min() > 0.85 * sizes.max()


def test_ranks_share_the_same_steps():
    order = Order(np.arange(96), np.full(96, 10), tokens=40, multiple=4)
    plan = order.epoch(0)
    whole = [set(np.concatenate([plan[step] for step in range(start, start + 4)])) for start in range(0, len(plan), 4)]
    for world in (1, 2, 4):
        taken = [[] for _ in whole]
        for rank in range(world):
            for step in range(rank, len(plan), world):
                taken[step // 4].extend(plan[step])
        assert [set(step) for step in taken] == whole


def test_batch_seeds_differ_between_steps_epochs_and_streams():
    seeds = {batch_seed(0, stream, epoch, step) for stream in (0, 1) for epoch in range(3) for step in range(50)}
    assert len(seeds) == 300
    assert batch_seed(0, 0, 1, 2) == batch_seed(0, 0, 1, 2)


def test_refusals():
    with pytest.raises(ValueError, match="no cells"):
        Order(np.array([], dtype=int), np.array([], dtype=int), tokens=10)
    with pytest.raises(ValueError, match="longest cell .11 tokens"):
        Order(np.arange(2), np.array([5, 11]), tokens=10)
    with pytest.raises(ValueError, match="3 cells, too few for the 4 micro-batches"):
        Order(np.arange(3), np.array([5, 5, 5]), tokens=100, multiple=4)
