"""Drawing by weight: the shares hold, every cell of a source is read before any is read again, under the budget."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scfm.data.mixture_order import MixtureOrder
from scfm.data.shuffle import Shuffle


@st.composite
def blends(draw):
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    sizes = draw(st.lists(st.integers(5, 120), min_size=1, max_size=4))
    sources = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    lengths = rng.integers(1, 50, len(sources))
    weights = draw(st.lists(st.floats(0.05, 10), min_size=len(sizes), max_size=len(sizes)))
    tokens, multiple = int(lengths.max()) * draw(st.integers(2, 9)), draw(st.sampled_from([1, 2, 4]))
    how = draw(st.sampled_from([Shuffle(), Shuffle("blocks", 4, 16), Shuffle("stored")]))
    try:
        order = MixtureOrder(
            np.arange(len(sources)) * 3,
            lengths,
            sources,
            weights,
            tokens=tokens,
            multiple=multiple,
            seed=5,
            permutation=how,
        )
    except ValueError as error:
        assert "too few" in str(error)
        assume(False)
    return order, sources, lengths, np.array(weights) / sum(weights), tokens, multiple


@given(blends(), st.integers(0, 6))
@settings(deadline=None)
def test_under_the_budget_the_same_number_of_micro_batches_in_every_epoch(made, epoch):
    order, _, lengths, _, tokens, multiple = made
    plan = order.epoch(epoch)
    assert len(plan) == len(order)
    assert len(order) % multiple == 0
    sizes = [lengths[plan[step] // 3].sum() for step in range(len(plan))]
    assert min(sizes) > 0
    assert max(sizes) <= tokens


@given(blends())
@settings(deadline=None)
def test_shares_hold_in_every_stretch_of_an_epoch(made):
    order, sources, lengths, shares, _, _ = made
    cells = order.epoch(2).rows // 3
    read = np.array([np.cumsum(np.where(sources[cells] == k, lengths[cells], 0)) for k in range(len(shares))])
    assert (abs(read - np.outer(shares, read.sum(axis=0))) <= 2 * len(shares) * lengths.max() + 1).all()


@given(blends())
@settings(deadline=None)
def test_every_cell_of_a_source_is_read_before_any_is_read_again(made):
    order, sources, _, shares, _, _ = made
    drawn = np.concatenate([order.epoch(epoch).rows // 3 for epoch in range(8)])
    for k in range(len(shares)):
        mine, n = drawn[sources[drawn] == k], (sources == k).sum()
        for start in range(0, len(mine), n):
            turn = mine[start : start + n]
            assert len(set(turn)) == len(turn)


def test_equal_weights_of_equal_stores_read_every_cell_once_an_epoch():
    sources = np.repeat([0, 1], 200)
    order = MixtureOrder(np.arange(400), np.full(400, 10), sources, [1, 1], tokens=200)
    assert sorted(order.epoch(3).rows) == list(range(400))
    again = MixtureOrder(np.arange(400), np.full(400, 10), sources, [5, 5], tokens=200)
    np.testing.assert_array_equal(order.epoch(3).rows, again.epoch(3).rows)
    assert (order.epoch(3).rows != order.epoch(4).rows).any()


def test_refusals():
    with pytest.raises(ValueError, match="store 1 of the mix .* has no training cell"):
        MixtureOrder(np.arange(9), np.full(9, 5), np.zeros(9), [1, 1], tokens=50)
    with pytest.raises(ValueError, match="too few for its .* micro-batches"):
        MixtureOrder(np.arange(4), np.full(4, 5), np.array([0, 0, 1, 1]), [1, 1], tokens=50, multiple=8)
