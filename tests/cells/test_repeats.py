"""Entries that are stored in several pieces: one count of one gene."""

from itertools import pairwise

import anndata as ad
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from scfm.cells.file import open_cells
from scfm.cells.formats.row_sorter import add_up_repeats

rows = st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 250)), max_size=12), min_size=1, max_size=6)


@settings(deadline=None)  # the first call compiles
@given(rows, st.sampled_from(["uint8", "int16", "float32", "float64"]))
def test_any_block_equals_its_dense_sum_and_names_each_column_once(rows, dtype):
    dense = np.zeros((len(rows), 8))
    for i, row in enumerate(rows):
        for column, value in row:
            dense[i, column] += value
    block = csr_matrix((len(rows), 8), dtype=dtype)
    block.data = np.array([value for row in rows for _, value in row], dtype=dtype)
    block.indices = np.array([column for row in rows for column, _ in row], dtype=np.int32)
    block.indptr = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    got = add_up_repeats(block)
    assert (got.toarray() == dense).all()
    assert got.nnz == (dense > 0).sum()


def test_a_block_without_repeats_is_not_touched():
    block = csr_matrix(([1.0, 2.0], [3, 1], [0, 2]), shape=(1, 5))
    assert add_up_repeats(block) is block


def stored_twice(path, cells, compressed):
    """Halves of every entry, in any order, as CSR or CSC."""
    cells.X = compressed(cells.X * 2)
    cells.write_h5ad(path)
    pointers = cells.X.indptr
    rng = np.random.default_rng(0)
    parts = [rng.permutation(np.tile(np.arange(low, high), 2)) for low, high in pairwise(pointers.tolist())]
    order = np.concatenate(parts)
    with h5py.File(path, "r+") as file:
        for name, values in {
            "data": (cells.X.data / 2)[order],
            "indices": cells.X.indices[order],
            "indptr": pointers * 2,
        }.items():
            del file["X"][name]
            file["X"][name] = values


@pytest.mark.parametrize("compressed", [csr_matrix, csc_matrix])
def test_files_with_repeated_entries(cells, tmp_path, compressed):
    expected = cells.X.toarray() * 2
    stored_twice(tmp_path / "x.h5ad", cells, compressed)
    with open_cells(tmp_path / "x.h5ad") as opened:
        for block in opened.blocks(size=7):
            dense = expected[block.start : block.start + 7]
            assert (block.counts.toarray() == dense).all()
            assert (np.diff(block.counts.indptr) == (dense > 0).sum(1)).all()


@pytest.mark.parametrize("compressed", [csr_matrix, csc_matrix])
def test_sums_beyond_the_stored_type(cells, tmp_path, compressed):
    cells.X = compressed(csr_matrix(np.full((50, 30), 100, dtype=np.int64)))
    stored_twice(tmp_path / "x.h5ad", cells, compressed)
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        values = file["X/data"][:].astype(np.uint8) * 2
        del file["X/data"]
        file["X/data"] = values
    with open_cells(tmp_path / "x.h5ad") as opened:
        assert (next(opened.blocks()).counts.toarray() == 400).all()


def test_the_reference_case(shared):
    folder = shared / "cases" / "files"
    expected = ad.read_h5ad(folder / "o01_float_category.h5ad").X.toarray()
    with open_cells(folder / "o08_repeated_entries.h5ad") as opened:
        counts = next(opened.blocks()).counts
    assert (counts.toarray() == expected).all()
    assert (np.diff(counts.indptr) == (expected > 0).sum(1)).all()
