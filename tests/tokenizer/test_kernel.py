"""The ranking kernel against sorting everything in plain NumPy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix, vstack

from scfm.tokenizer import CellError
from scfm.tokenizer.kernel import rank
from scfm.types import Ragged

DTYPES = [np.int32, np.int64, np.uint16, np.float32, np.float64]


def lists(ids: Ragged) -> list[list[int]]:
    return [ids[i].tolist() for i in range(len(ids))]


def cells(n_cells=300, n_genes=500, seed=0, dtype=np.float32, density=0.3):
    rng = np.random.default_rng(seed)
    dense = rng.negative_binomial(0.5, 0.1, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    dense[:, 0] += 1
    return csr_matrix(dense.astype(dtype))


def tokens_and_medians(n_genes, seed=0, n_tokens=700):
    rng = np.random.default_rng(seed)
    columns = rng.permutation(n_tokens)[:n_genes].astype(np.int32)
    columns[rng.random(n_genes) < 0.2] = -1
    return columns, rng.lognormal(0, 1, n_tokens)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_block_equals_the_oracle(oracle, data):
    n_cells, n_genes = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    values = st.sampled_from([0, 0, 1, 1, 2, 3, 7, 40000])
    dense = data.draw(arrays(np.int64, (n_cells, n_genes), elements=values))
    dense[:, 0] += 1
    columns = data.draw(arrays(np.int32, n_genes, elements=st.integers(-1, 25)))
    medians = data.draw(arrays(np.float64, 26, elements=st.sampled_from([1e-7, 0.5, 1.0, 1.0, 3.0, 1e3])))
    limit = data.draw(st.integers(1, 45))
    dtype = data.draw(st.sampled_from(DTYPES))
    counts = csr_matrix(dense.astype(dtype))
    for used in (None, medians):
        got, _ = rank(counts, columns, 26, limit, medians=used)
        assert lists(got) == oracle(counts, columns, limit, used)


def test_counts_that_were_checked_give_the_same_tokens():
    counts = cells(dtype=np.int32)
    columns, medians = tokens_and_medians(500)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    looked, below = rank(counts, columns, 700, 100, medians=medians)
    trusted, none = rank(counts, columns, 700, 100, medians=medians, totals=totals, checked=True)
    assert below == none == 0
    np.testing.assert_array_equal(looked.values, trusted.values)
    np.testing.assert_array_equal(looked.offsets, trusted.offsets)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scaled=st.booleans(), limit=st.sampled_from([1, 10, 126, 4094]))
def test_order_of_columns_changes_nothing(seed, scaled, limit):
    counts = cells(20, 200, seed)
    columns, medians = tokens_and_medians(200, seed)
    permuted = np.random.default_rng(seed).permutation(200)
    medians = medians if scaled else None
    got, _ = rank(counts, columns, 700, limit, medians=medians)
    also, _ = rank(csr_matrix(counts[:, permuted]), columns[permuted], 700, limit, medians=medians)
    assert lists(got) == lists(also)


@pytest.mark.parametrize("scaled", [False, True])
def test_ranks_are_a_permutation_and_the_cut_keeps_the_top(scaled):
    counts = cells()
    columns, medians = tokens_and_medians(500)
    medians = medians if scaled else None
    whole, _ = rank(counts, columns, 700, 4094, medians=medians)
    for limit in (1, 7, 64, 126):
        cut, _ = rank(counts, columns, 700, limit, medians=medians)
        assert lists(cut) == [cell[:limit] for cell in lists(whole)]
    for row, cell in enumerate(lists(whole)):
        found = columns[counts[row].indices]
        assert sorted(cell) == sorted(found[found >= 0].tolist())


@pytest.mark.parametrize("scaled", [False, True])
def test_same_tokens_for_any_block_thread_and_type(scaled):
    counts = cells(2000, 300)
    columns, medians = tokens_and_medians(300)
    medians = medians if scaled else None
    want = lists(rank(counts, columns, 700, 126, medians=medians)[0])

    def one(part):
        return lists(rank(part, columns, 700, 126, medians=medians)[0])

    for size in (1, 7, 64, 1000, 10000):
        some = counts[:200] if size == 1 else counts
        parts = [some[at : at + size] for at in range(0, some.shape[0], size)]
        for threads in (1, 2, 4):
            with ThreadPoolExecutor(threads) as pool:
                assert [cell for part in pool.map(one, parts) for cell in part] == want[: some.shape[0]]
    for dtype in [*DTYPES, np.int8, np.uint32, np.uint8]:
        small = counts[:50].minimum(100)
        assert one(small.astype(dtype)) == one(small), dtype
    wide = csr_matrix(
        (counts.data, counts.indices.astype(np.int64), counts.indptr.astype(np.int64)), shape=counts.shape
    )
    assert one(wide) == want


@pytest.mark.parametrize("scaled", [False, True])
def test_unsorted_rows_zeros_and_repeated_columns(oracle, scaled):
    data = np.array([2.0, 0.0, 1.0, 3.0, 1.0, 0.0], dtype=np.float32)
    counts = csr_matrix((data, np.array([3, 1, 0, 0, 2, 2]), np.array([0, 5, 6])), shape=(2, 4))
    counts.data[5] = 1.0
    columns = np.array([5, 6, 7, 8], dtype=np.int32)
    medians = np.ones(9) if scaled else None
    assert lists(rank(counts, columns, 9, 10, medians=medians)[0]) == [[5, 8, 7], [7]]


def test_columns_that_meet_are_summed():
    counts = csr_matrix(np.array([[2, 3, 2], [0, 1, 0]]))
    for medians in (None, np.ones(3)):
        assert lists(rank(counts, np.array([1, 2, 1]), 3, 10, medians=medians)[0]) == [[1, 2], [2]]


def test_fractions_are_summed_in_the_order_of_columns():
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1: stored backwards, the sum must not change and so tie or not.
    forward = csr_matrix((np.array([0.1, 0.2, 0.3, 0.6]), np.array([0, 1, 2, 3]), np.array([0, 4])), shape=(1, 4))
    backward = csr_matrix((np.array([0.6, 0.3, 0.2, 0.1]), np.array([3, 2, 1, 0]), np.array([0, 4])), shape=(1, 4))
    columns = np.array([1, 1, 1, 0])
    assert lists(rank(forward, columns, 2, 5)[0]) == lists(rank(backward, columns, 2, 5)[0])


@pytest.mark.parametrize("scaled", [False, True])
def test_equal_values_ascend_by_token(scaled):
    rng = np.random.default_rng(3)
    counts = csr_matrix(np.ones((3, 5000), dtype=np.int32))
    columns = rng.permutation(6000)[:5000].astype(np.int32)
    medians = np.full(6000, 1.105969024047805) if scaled else None
    for limit in (10, 5000):
        got, _ = rank(counts, columns, 6000, limit, medians=medians)
        assert lists(got) == [sorted(columns.tolist())[:limit]] * 3


def test_near_ties_are_told_apart_by_all_64_bits(oracle):
    """Thousands of values within a few units in the last place, and one far away that squeezes the sorting keys."""
    rng = np.random.default_rng(5)
    medians = 1.5 + rng.integers(0, 200, 3000) * np.spacing(1.5)
    medians[7] = 7e-7
    counts = csr_matrix(np.ones((2, 3000), dtype=np.float32))
    columns = rng.permutation(3000).astype(np.int32)
    for limit in (50, 3000):
        got, _ = rank(counts, columns, 3000, limit, medians=medians, totals=np.array([3001.0, 4567.0]))
        assert lists(got) == oracle(counts, columns, limit, medians, [3001.0, 4567.0])


@pytest.mark.parametrize("step", [2.0**-27, 2.0**-24, 2.0**-23, 2.0**-20])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 3.0])
def test_values_nearer_than_single_precision_are_told_apart(oracle, step, spread):
    """The float32 products put many of them in wrong order, within and across the sorting keys and the cut."""
    rng = np.random.default_rng(6)
    medians = (1 + rng.integers(0, 3000, 2500) * step) * np.exp(spread * rng.normal(size=2500))
    counts = csr_matrix(rng.integers(1, 4, (3, 2500)).astype(np.float32))
    columns = rng.permutation(2500).astype(np.int32)
    for limit in (1, 700, 2499, 2500):
        got, _ = rank(counts, columns, 2500, limit, medians=medians)
        assert lists(got) == oracle(counts, columns, limit, medians)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_fractions_and_medians_equal_the_oracle(oracle, data):
    """Subnormal float32, those beyond its end, and usual ones."""
    n_genes = data.draw(st.integers(1, 30))
    powers = arrays(np.float64, n_genes, elements=st.floats(-44, 44))
    counts = csr_matrix(10.0 ** data.draw(powers)[None, :])
    medians = 10.0 ** (data.draw(powers) / data.draw(st.sampled_from([2.0, 4.0, 40.0])))
    got, _ = rank(counts, np.arange(n_genes), n_genes, 30, medians=medians, totals=np.array([1e60]))
    assert lists(got) == oracle(counts, np.arange(n_genes), 30, medians, [1e60])


def test_a_whole_vocabulary_of_65536_tokens(oracle):
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.integers(1, 50, (2, 65536)))
    columns = rng.permutation(65536).astype(np.int32)
    medians = rng.lognormal(0, 1, 65536)
    got, _ = rank(counts, columns, 65536, 65536, medians=medians)
    assert lists(got) == oracle(counts, columns, 65536, medians)


def test_values_that_vanish_are_left_out():
    counts = csr_matrix(np.array([[1e-300, 1.0]]))
    got, _ = rank(counts, np.array([0, 1]), 2, 5, medians=np.array([1e300, 1.0]))
    assert lists(got) == [[1]]


def test_frame_and_empty_cells():
    counts = csr_matrix(np.array([[0, 3], [1, 0], [2, 1]]))
    got, below = rank(
        counts, np.array([5, -1]), 6, 5, prefix=np.array([2]), suffix=np.array([3]), totals=np.array([3.0, 1.0, 1.0])
    )
    assert lists(got) == [[], [2, 5, 3], [2, 5, 3]]
    assert got.values.dtype == np.uint16
    assert below == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-1.0, "negative"), (-np.inf, "infinite|negative|NaN")],
)
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("place", range(6))
def test_bad_counts_name_their_row(value, reason, mapped, place):
    counts = cells(8, 6, density=1.0)
    counts = csr_matrix(counts.toarray() + 1)
    counts.data[5 * 6 + place] = value
    columns = np.arange(6, dtype=np.int32) if mapped else np.array([0, -1, -1, -1, -1, -1])
    for medians in (None, np.ones(6)):
        with pytest.raises(CellError, match=reason) as caught:
            rank(counts, columns, 6, 4, medians=medians)
        assert caught.value.row == 5
        assert "row 5" in str(caught.value)


def test_a_cell_without_counts_is_refused():
    counts = vstack([cells(3, 6), csr_matrix((1, 6), dtype=np.float32)]).tocsr()
    with pytest.raises(CellError, match="no counts at all") as caught:
        rank(counts, np.arange(6), 6, 4)
    assert caught.value.row == 3


@pytest.mark.parametrize("total", [0.0, -3.0, np.nan, np.inf])
def test_a_bad_given_total_is_refused(total):
    with pytest.raises(CellError, match="given total") as caught:
        rank(cells(3, 6), np.arange(6), 6, 4, medians=np.ones(6), totals=np.array([100.0, total, 100.0]))
    assert caught.value.row == 1
