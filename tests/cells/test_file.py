"""Reading .h5ad: blocks equal what anndata reads, counts are found in the stated order, genes by the stated rule."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix, vstack

from scfm.cells.file import open_cells
from scfm.cells.formats import hdf5_matrix, inflate, row_sorter


def whole(path, size=7, **options):
    """All blocks put together: counts, obs."""
    with open_cells(path, **options) as cells:
        blocks = list(cells.blocks(size=size))
    assert [block.start for block in blocks] == list(range(0, sum(b.counts.shape[0] for b in blocks), size))
    return vstack([block.counts for block in blocks]), pd.concat([block.obs for block in blocks])


def same(one, two):
    return one.shape == two.shape and (csr_matrix(one) != csr_matrix(two)).nnz == 0


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint16", "int64"])
def test_every_layout_gives_the_same_counts(cells, h5ad, layout, compression, dtype):
    expected = cells.X.copy()
    cells.X = layout(cells.X.astype(dtype))
    counts, obs = whole(h5ad(cells, compression=compression))
    assert same(counts, expected)
    assert counts.dtype == np.dtype(dtype)
    assert list(obs.index) == list(cells.obs_names)


def test_obs_comes_as_anndata_reads_it(cells, h5ad):
    cells.obs["some"] = pd.array([1, None] * 25, dtype="Int64")
    cells.obs["flag"] = pd.array([True, None] * 25, dtype="boolean")
    cells.obs["label"] = pd.Categorical(["a", None] * 25)
    path = h5ad(cells)
    expected = anndata.read_h5ad(path).obs
    with open_cells(path) as opened:
        assert opened.obs_columns == list(expected.columns)
        blocks = pd.concat([block.obs for block in opened.blocks(size=8)])
        for got in (opened.obs, blocks):
            assert list(got.index) == list(expected.index)
            for column in expected:
                assert list(got[column].astype(str)) == list(expected[column].astype(str)), column
        assert opened.obs["kind"].dtype == expected["kind"].dtype
        only = next(opened.blocks(columns=["age"]))
        assert list(only.obs.columns) == ["age"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_any_stretch_in_any_block_size(cells, h5ad, layout, data):
    path = h5ad(cells, f"{layout}.h5ad", compression="gzip")
    expected = cells.X.toarray()
    start = data.draw(st.integers(0, 49))
    stop = data.draw(st.integers(start, 60))
    size = data.draw(st.integers(1, 60))
    with open_cells(path) as opened:
        blocks = list(opened.blocks(start, stop, size))
        again = list(opened.blocks(start, stop, size))
    got = np.vstack([np.empty((0, 30)), *[block.counts.toarray() for block in blocks]])
    assert (got == expected[start:stop]).all()
    assert [name for b in blocks for name in b.obs.index] == list(cells.obs_names[start : min(stop, 50)])
    assert all(same(one.counts, two.counts) for one, two in zip(blocks, again, strict=True))


@pytest.mark.parametrize("library", ["deflate", "isal", None])
def test_inflating_ourselves_equals_h5py(cells, h5ad, library, monkeypatch):
    if library == "deflate":
        zlib_decompress = pytest.importorskip("deflate").zlib_decompress
        monkeypatch.setattr(inflate, "inflater", lambda: zlib_decompress)
    elif library == "isal":
        isal = pytest.importorskip("isal.isal_zlib")
        monkeypatch.setattr(inflate, "inflater", lambda: lambda raw, size: isal.decompress(raw, bufsize=size))
    else:
        monkeypatch.setattr(inflate, "inflater", lambda: None)
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:  # small chunks, the last one cut by the end
        for name in ("data", "indices"):
            values = file["X"][name][:]
            del file["X"][name]
            file["X"].create_dataset(name, data=values, chunks=(17,), compression="gzip")
    assert same(whole(path, size=3)[0], cells.X)


def test_only_plain_gzip_is_inflated_by_ourselves(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = np.arange(100)
        assert inflate.gzip_only(file.create_dataset("gzip", data=values, chunks=(9,), compression="gzip"))
        for name, options in {
            "shuffle": {"compression": "gzip", "shuffle": True},
            "checksum": {"compression": "gzip", "fletcher32": True},
            "lzf": {"compression": "lzf"},
            "none": {},
        }.items():
            assert not inflate.gzip_only(file.create_dataset(name, data=values, chunks=(9,), **options)), name
            assert (inflate.Slices(file[name])(5, 50) == values[5:50]).all()
        big = file.create_dataset("big-endian", data=values.astype(">i4"), chunks=(9,), compression="gzip")
        assert (inflate.Slices(big)(5, 50) == values[5:50]).all()


@pytest.mark.parametrize("limit", [1, 40, 10**6])
def test_columns_are_turned_into_rows_out_of_core(cells, h5ad, limit, monkeypatch, tmp_path):
    monkeypatch.setattr(hdf5_matrix, "PIECE", 37)
    monkeypatch.setattr(row_sorter.RowRanges.__init__, "__defaults__", (limit,))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    expected = cells.X.copy()
    cells.X = csc_matrix(cells.X)
    with open_cells(h5ad(cells)) as opened:
        got = vstack([block.counts for block in opened.blocks(size=11)])
        assert got.has_sorted_indices
    assert same(got, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"], "temporary files are gone"


def test_several_iterators_at_once(cells, h5ad):
    with open_cells(h5ad(cells, compression="gzip")) as opened:
        pairs = zip(opened.blocks(size=5), opened.blocks(size=5), strict=True)
        assert all(same(one.counts, two.counts) for one, two in pairs)


def test_the_input_is_never_written_to(cells, h5ad):
    path = h5ad(cells)
    before = path.read_bytes(), path.stat().st_mtime_ns
    whole(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# --- where counts are ---------------------------------------------------------------------------------------------


def logged(counts):
    logarithm = counts.astype(np.float32).copy()
    logarithm.data = np.log1p(logarithm.data * 0.7)
    return logarithm


def test_order_of_places(cells, h5ad):
    counts = cells.X.copy()
    cells.layers["counts"] = counts * 2
    cells.raw = anndata.AnnData(counts * 3, var=cells.var)
    with open_cells(h5ad(cells, "a.h5ad")) as opened:
        assert opened.counts_from == "layers['counts']"
        assert same(next(opened.blocks()).counts, counts * 2)
    del cells.layers["counts"]
    with open_cells(h5ad(cells, "b.h5ad")) as opened:
        assert opened.counts_from == "raw.X"
        assert same(next(opened.blocks()).counts, counts * 3)
    cells.raw = None
    with open_cells(h5ad(cells, "c.h5ad")) as opened:
        assert opened.counts_from == "X"
    cells.layers["spliced"] = counts * 4
    with open_cells(h5ad(cells, "d.h5ad"), layer="spliced") as opened:
        assert opened.counts_from == "layers['spliced']"
        assert same(next(opened.blocks()).counts, counts * 4)


def test_a_place_without_counts_is_passed_over_and_said(cells, h5ad, caplog):
    counts = cells.X.copy()
    cells.layers["counts"] = logged(counts)
    with open_cells(h5ad(cells)) as opened:
        assert opened.counts_from == "X"
        assert opened.is_counts
    assert "layers['counts'] holds fractions" in caplog.text
    assert "X is used instead" in caplog.text


@pytest.mark.parametrize("where", ["raw", "X"])
def test_counts_of_more_genes_go_before_those_of_variable_genes(cells, h5ad, caplog, where):
    counts = cells.X.copy()
    some = cells[:, :10].copy()
    some.raw = cells.copy()
    some.layers["counts"] = some.X.copy()
    some.X = logged(some.X)
    if where == "X":  # raw was cut, X was not
        some = cells.copy()
        some.raw = cells[:, :10].copy()
    with open_cells(h5ad(some)) as opened:
        assert opened.counts_from == ("raw.X" if where == "raw" else "X")
        assert len(opened.genes) == 30
        assert same(next(opened.blocks()).counts, counts)
    assert "holds the counts of 10 genes" in caplog.text
    assert "those of 30" in caplog.text
    if where == "raw":
        with open_cells(h5ad(some), layer="counts") as opened:
            assert len(opened.genes) == 10


def test_variable_genes_are_said_where_all_genes_have_no_counts(cells, h5ad, caplog):
    some = cells[:, :10].copy()
    some.layers["counts"] = some.X.copy()
    some.raw = anndata.AnnData(logged(cells.X), var=cells.var)
    with open_cells(h5ad(some)) as opened:
        assert opened.counts_from == "layers['counts']"
    assert "has the counts of 10 genes; raw.X has 30 genes, but holds fractions" in caplog.text


def test_equal_genes_keep_the_order_of_places(cells, h5ad, caplog):
    cells.layers["counts"] = cells.X.copy()
    cells.raw = cells.copy()
    with open_cells(h5ad(cells)) as opened:
        assert opened.counts_from == "layers['counts']"
    assert not caplog.text


def test_a_place_without_any_value_is_passed_over(cells, h5ad, caplog):
    cells.layers["counts"] = csr_matrix(cells.shape, dtype=np.float32)
    with open_cells(h5ad(cells)) as opened:
        assert opened.counts_from == "X"
    assert "layers['counts'] holds no value but zero: X is used instead" in caplog.text
    logged = cells.copy()
    logged.X = csr_matrix(cells.X).log1p()
    with pytest.raises(ValueError, match=r"layers\['counts'\] holds no value but zero; X holds fractions"):
        open_cells(h5ad(logged, "b.h5ad"))
    cells.X = cells.layers["counts"]
    with open_cells(h5ad(cells, "c.h5ad")) as opened:
        assert opened.counts_from == "layers['counts']"
        assert next(opened.blocks()).empty.all()


def test_a_raw_whose_genes_are_row_numbers_is_passed_over(cells, h5ad, caplog):
    """As ``adata.raw = AnnData(adata.X)`` leaves it."""
    numbers = pd.DataFrame(index=[str(i) for i in range(cells.n_vars)])
    cells.raw = anndata.AnnData(cells.X, obs=cells.obs[[]], var=numbers)
    with open_cells(h5ad(cells)) as opened:
        assert opened.counts_from == "X"
    assert "raw.X holds the counts of 30 genes without names, X those of 30: X is used instead" in caplog.text
    cells.raw = anndata.AnnData(cells.X, obs=cells.obs[[]], var=numbers.assign(gene_ids=list(cells.var["gene_id"])))
    with open_cells(h5ad(cells, "b.h5ad")) as opened:
        assert opened.counts_from == "raw.X"


def test_scanpy_files_with_scaled_x_and_logged_raw(cells, h5ad):
    raw = anndata.AnnData(logged(cells.X), var=cells.var)
    cells.X = cells.X.toarray() - 1.5
    cells.raw = raw
    path = h5ad(cells)
    with pytest.raises(ValueError, match=r"cells\.h5ad.*raw\.X holds fractions.*X holds negative.*counts=lognorm_ok"):
        open_cells(path)
    with open_cells(path, counts="lognorm_ok") as opened:
        assert opened.counts_from == "raw.X"
        assert not opened.is_counts
        assert same(next(opened.blocks()).counts, raw.X)


def test_a_named_layer_is_used_or_refused(cells, h5ad):
    cells.layers["scaled"] = logged(cells.X)
    path = h5ad(cells)
    with pytest.raises(ValueError, match=r"layers\['scaled'\] holds fractions"):
        open_cells(path, layer="scaled")
    with pytest.raises(ValueError, match=r"no layer 'sclaed'.*did you mean 'scaled'"):
        open_cells(path, layer="sclaed")


def test_lognorm_prefers_counts_where_there_are_some(cells, h5ad):
    cells.layers["counts"] = cells.X.copy()
    cells.X = logged(cells.X)
    with open_cells(h5ad(cells), counts="lognorm_ok") as opened:
        assert opened.counts_from == "layers['counts']"


@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"])
def test_fractions_anywhere_are_seen_not_only_in_the_head(h5ad, layout):
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (4000, 200)).astype(np.float32)
    counts[3500:] = np.log1p(counts[3500:])
    cells = anndata.AnnData(layout(csr_matrix(counts)))
    path = h5ad(cells, compression="gzip")
    with pytest.raises(ValueError, match=r"X holds fractions.*in cell '3[5-9]\d\d'"):
        open_cells(path)


def test_large_whole_numbers_are_counts(cells, h5ad):
    cells.X = cells.X.astype(np.float64) * 1e10
    counts, _ = whole(h5ad(cells))
    assert counts.max() > 1e10


# --- names of genes -----------------------------------------------------------------------------------------------


def genes(path, **options):
    with open_cells(path, **options) as opened:
        return opened.genes, opened.genes_from


def test_ensembl_column_before_an_index_of_symbols(cells, h5ad):
    cells.var["gene_id"] = [gene if i != 4 else "" for i, gene in enumerate(cells.var["gene_id"])]
    names, where = genes(h5ad(cells))
    assert where == "var['gene_id']"
    assert names[0] == "ENSG00000000000"
    assert names[4] == "GENE4", "where the column is empty the index stands in"


@pytest.mark.parametrize("word", ["-", "NA", ".", "0", "none", "N/A", " ", "nan ", "unknown"])
def test_a_word_for_a_missing_id_gives_way_to_the_index(cells, h5ad, word):
    ids = list(cells.var["gene_id"])
    cells.var["gene_id"] = [word if i % 3 == 0 else gene for i, gene in enumerate(ids)]
    expected = [f"GENE{i}" if i % 3 == 0 else gene for i, gene in enumerate(ids)]
    assert genes(h5ad(cells)) == (expected, "var['gene_id']")
    assert genes(h5ad(cells), gene_column="gene_id")[0] == expected
    cells.var = pd.DataFrame({"gene_id": ["GFP", *ids[1:]]}, index=[str(i) for i in range(30)])
    assert genes(h5ad(cells, "b.h5ad"))[0] == ["GFP", *ids[1:]], "a number says less"


def test_an_index_of_ensembl_ids_stays(cells, h5ad):
    cells.var = cells.var.reset_index(names="feature_name").set_index("gene_id")
    assert genes(h5ad(cells)) == (list(cells.var_names), "var.index")
    assert genes(h5ad(cells, "b.h5ad"), gene_column="feature_name")[0][:2] == ["GENE0", "GENE1"]


def test_an_index_of_numbers_gives_way_to_symbols(cells, h5ad):
    cells.var = pd.DataFrame({"gene_symbols": cells.var_names}, index=[str(i) for i in range(30)])
    assert genes(h5ad(cells)) == ([f"GENE{i}" for i in range(30)], "var['gene_symbols']")
    assert genes(h5ad(cells), gene_column="index")[0][0] == "0"


def test_genes_of_raw_belong_to_its_counts(cells, h5ad):
    cells.raw = cells.copy()
    smaller = cells[:, :10].copy()
    with open_cells(h5ad(smaller)) as opened:
        assert opened.counts_from == "raw.X"
        assert len(opened.genes) == next(opened.blocks()).counts.shape[1] == 30


def test_an_unknown_gene_column_is_refused(cells, h5ad):
    with pytest.raises(ValueError, match=r"cells\.h5ad.*no column 'gene_di'.*did you mean 'gene_id'"):
        open_cells(h5ad(cells), gene_column="gene_di")


def test_features_that_are_no_genes_are_left_out(cells, h5ad):
    cells.var["feature_types"] = ["Gene Expression"] * 25 + ["Antibody Capture"] * 5
    with open_cells(h5ad(cells)) as opened:
        assert len(opened.genes) == 25
        assert same(next(opened.blocks()).counts, cells.X[:, :25])


def test_duplicate_genes_pass_through(cells, h5ad):
    cells.var["gene_id"] = ["ENSG00000000001"] * 30
    assert genes(h5ad(cells))[0] == ["ENSG00000000001"] * 30
