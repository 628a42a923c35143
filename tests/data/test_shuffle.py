"""Every kind of shuffling is a permutation; blocks stay within reach of their pool."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scfm.data.order import Order
from scfm.data.shuffle import Shuffle


@given(
    st.integers(0, 500),
    st.sampled_from(["cells", "blocks", "stored"]),
    st.integers(1, 40),
    st.integers(0, 80),
    st.data(),
)
def test_a_permutation_that_follows_from_the_seed(n, by, block, more, data):
    how, seed = Shuffle(by, block, block + more), data.draw(st.integers(0, 5))
    one, two = (how(n, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert sorted(one) == list(range(n))


def test_blocks_are_read_whole_within_a_pool():
    order = Shuffle("blocks", block=10, pool=100)(5_000, np.random.default_rng(0))
    for start in range(0, 5_000, 100):
        blocks, cells = np.unique(order[start : start + 100] // 10, return_counts=True)
        assert len(blocks) == 10
        assert (cells == 10).all()
    assert (np.abs(np.diff(order)) == 1).mean() < 0.05  # mixed inside the pool


def test_stored_is_the_order_of_the_store_in_every_epoch():
    order = Order(np.arange(50) * 2, np.full(50, 3), tokens=30, permutation=Shuffle("stored"))
    for epoch in range(2):
        np.testing.assert_array_equal(order.epoch(epoch).rows, np.arange(50) * 2)


def test_refusals():
    with pytest.raises(ValueError, match="expected cells, blocks or stored"):
        Shuffle("rows")
    with pytest.raises(ValueError, match="a pool at least one block"):
        Shuffle("blocks", block=64, pool=32)
    with pytest.raises(ValueError, match="at least one cell"):
        Shuffle("blocks", block=0)
