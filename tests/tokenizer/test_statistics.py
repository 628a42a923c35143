"""Corpus statistics: exact where small, within the stated error where large, the same however the corpus is cut."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scfm.tokenizer import GeneStatistics
from scfm.tokenizer.sketch import RELATIVE_ERROR, Sketch, bin_centers, find_bins

GENES = [f"ENSG{i:011d}" for i in range(30)]


def cells(n_cells=400, seed=0, n_genes=30):
    rng = np.random.default_rng(seed)
    dense = rng.negative_binomial(0.4, 0.02, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.5)
    dense[:, 0] = 1
    dense[:, n_genes - 1] = 0
    return csr_matrix(dense.astype(np.float32))


def oracle(counts):
    share = counts.toarray().astype(np.float64)
    share = share / share.sum(axis=1, keepdims=True) * 10000.0
    return np.array([np.median(column[column > 0]) if (column > 0).any() else np.nan for column in share.T])


def gather(blocks, genes=GENES, **options):
    statistics = GeneStatistics(**options)
    for block in blocks:
        statistics.update(block, genes)
    return statistics


def same(a, b):
    order = [b.genes.index(gene) for gene in a.genes]
    assert a.n_total == b.n_total
    assert np.array_equal(a.n_cells, b.n_cells[order])
    assert np.array_equal(a.counts, b.counts[order])
    assert np.array_equal(a.medians(), b.medians()[order], equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16])
def test_exact_medians_equal_numpy(dtype):
    counts = cells().astype(dtype)
    statistics = gather([counts])
    assert statistics.exact
    assert np.array_equal(statistics.medians(), oracle(counts), equal_nan=True)
    assert np.array_equal(statistics.n_cells, (counts.toarray() > 0).sum(axis=0))
    assert np.array_equal(statistics.counts, counts.toarray().sum(axis=0, dtype=np.float64))


def test_sketched_medians_are_within_the_stated_error():
    counts = cells(3000)
    statistics = gather([counts], exact_limit=100)
    assert not statistics.exact
    error = np.abs(statistics.medians() / oracle(counts) - 1)
    assert np.nanmax(error) <= RELATIVE_ERROR
    assert np.isnan(statistics.medians()[-1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(2**-20, 2**13.99), min_size=1, max_size=60))
def test_error_bound_of_the_sketch_for_any_values(values):
    sketch = Sketch()
    sketch.grow(2)
    sketch.add(np.ones(len(values), np.int32), np.array(values))
    assert np.isnan(sketch.medians()[0])
    assert abs(sketch.medians()[1] / np.median(values) - 1) <= RELATIVE_ERROR * (1 + 1e-12)


def test_bins_hold_their_middle_and_clip():
    bins = np.arange(34 << 7)
    assert np.array_equal(find_bins(bin_centers(bins)), bins)
    assert find_bins(np.array([1e-300, 1e300])).tolist() == [0, bins[-1]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), limit=st.sampled_from([10, 3000, 10**6]), cut=st.integers(1, 399), data=st.data())
def test_any_partition_and_order_gives_the_same(seed, limit, cut, data):
    counts = cells(seed=seed)
    whole = gather([counts], exact_limit=limit)
    one, two = gather([counts[:cut]], exact_limit=limit), gather([counts[cut:]], exact_limit=limit)
    if data.draw(st.booleans()):
        one, two = two, one
    one.merge(two)
    assert one.exact == whole.exact
    same(whole, one)
    permuted = data.draw(st.permutations(range(30)))
    also = gather(
        [counts[cut:][:, permuted], counts[:cut][:, permuted]], [GENES[i] for i in permuted], exact_limit=limit
    )
    same(whole, also)


def test_files_with_other_genes_merge_by_name():
    a = gather([cells(50, 1, 20)], GENES[:20])
    b = gather([cells(60, 2, 20)], GENES[10:])
    medians = dict(zip(b.genes, b.medians(), strict=True))
    a.merge(b)
    assert a.genes == GENES
    assert a.n_total == 110
    assert np.array_equal(a.medians()[20:], [medians[gene] for gene in GENES[20:]], equal_nan=True)


def test_columns_of_one_gene_are_summed_and_unknown_ones_count_for_the_total():
    statistics = GeneStatistics()
    statistics.update(csr_matrix(np.array([[1, 2, 5], [0, 0, 4]])), ["A", "A", None])
    assert statistics.genes == ["A"]
    assert statistics.n_cells.tolist() == [1]
    assert statistics.medians().tolist() == [3 / 8 * 10000]
    statistics.update(csr_matrix(np.array([[1, 2, 5]])), ["A", "A", None], totals=np.array([10.0]))
    assert statistics.medians().tolist() == [(3 / 8 + 3 / 10) / 2 * 10000]


@pytest.mark.parametrize("limit", [10, 10**6])
def test_state_goes_through_a_file(tmp_path, limit):
    counts = cells()
    statistics = gather([counts[:200]], exact_limit=limit)
    statistics.save(tmp_path / "part.npz")
    again = GeneStatistics.load(tmp_path / "part.npz")
    same(statistics, again)
    again.update(counts[200:], GENES)
    same(gather([counts], exact_limit=limit), again)
    assert [path.name for path in tmp_path.iterdir()] == ["part.npz"]


def test_memory_of_the_sketch_does_not_grow_with_cells(monkeypatch):
    monkeypatch.setattr("scfm.tokenizer.sketch.WAITING", 1000)
    small = gather([cells(500, 1)], exact_limit=1)
    large = gather([cells(500, 1)] * 40, exact_limit=1)
    assert np.array_equal(large.to_dict()["bins"], small.to_dict()["bins"])
    assert np.array_equal(large.to_dict()["bin_counts"], 40 * small.to_dict()["bin_counts"].astype(np.int64))


@pytest.mark.parametrize("waiting", [0, 700, 10**6])
def test_when_values_are_put_into_pages_changes_nothing(monkeypatch, waiting, tmp_path):
    blocks = [cells(100, seed) for seed in range(5)]
    expected = gather(blocks, exact_limit=0)
    monkeypatch.setattr("scfm.tokenizer.sketch.WAITING", waiting)
    total = gather(blocks[:2], exact_limit=0)
    for i, block in enumerate(blocks[2:]):
        part = gather([block], exact_limit=0 if i else 10**6)
        part.save(tmp_path / "part.npz")
        total.merge(GeneStatistics.load(tmp_path / "part.npz"))
    same(expected, total)


def old_state(statistics):
    """The arrays as they were saved until 0.1: rows and values as they came, or the pages of the sketch."""
    state = statistics.to_dict()
    state["genes"] = np.array(json.loads(bytes(state.pop("names"))), dtype=np.str_)
    if statistics.exact:
        rows = np.repeat(np.arange(len(statistics.genes), dtype=np.int32), statistics.n_cells)
        order = np.random.default_rng(0).permutation(len(rows))
        sketch = Sketch()
        state |= {"rows": rows[order], "values": state["values"][order]}
    else:
        for name in ("bins", "bin_counts", "n_bins"):
            del state[name]
        sketch = statistics._sketch
        sketch.settle()
        state |= {"rows": np.empty(0, np.int32), "values": np.empty(0)}
    return state | {"page_of": sketch.page_of, "pages": sketch.pages[: sketch.n_pages]}


@pytest.mark.parametrize("limit", [10, 10**6])
def test_statistics_of_an_older_release_are_read(tmp_path, limit):
    statistics = gather([cells()], exact_limit=limit)
    with (tmp_path / "old.npz").open("wb") as file:
        np.savez_compressed(file, **old_state(statistics))
    same(statistics, GeneStatistics.load(tmp_path / "old.npz"))


def test_parts_that_are_sketched_at_once_give_what_the_whole_gives():
    blocks = [cells(100, seed) for seed in range(4)]
    whole = gather(blocks, exact_limit=1000)
    assert not whole.exact
    total = GeneStatistics(exact_limit=1000)
    for i, block in enumerate(blocks):
        total.merge(gather([block], exact_limit=1000 if i % 2 else 0))
    same(whole, total)


def test_names_with_any_sign_go_through_a_file(tmp_path):
    names = ["a\nb", 'c"d', "é", "\u2028"]
    statistics = gather([csr_matrix(np.eye(4, dtype=np.float32))], names)
    statistics.save(tmp_path / "part.npz")
    assert GeneStatistics.load(tmp_path / "part.npz").genes == names


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="30 columns but 2 genes"):
        GeneStatistics().update(cells(), ["A", "B"])
    with pytest.raises(ValueError, match="row 1 has 0"):
        GeneStatistics().update(csr_matrix(np.array([[1.0], [0.0]])), ["A"])
    with pytest.raises(ValueError, match="row 0 has nan"):
        GeneStatistics().update(csr_matrix(np.array([[np.nan], [1.0]])), ["A"])
    with pytest.raises(FileNotFoundError, match="no gene statistics"):
        GeneStatistics.load(tmp_path / "none.npz")
