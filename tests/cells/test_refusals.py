"""Bad files: each ends in one sentence that names the file, what was got and what to do."""

import errno
import gzip
import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scfm.cells import counts
from scfm.cells.file import open_cells


def refusal(path, error=ValueError, **options):
    """The message with which a file is refused, while opened or read; one sentence, naming the file."""
    with pytest.raises(error) as caught, open_cells(path, **options) as cells:
        list(cells.blocks(size=8))
    message = str(caught.value)
    assert os.fspath(path) in message
    assert "\n" not in message
    return message


def test_missing_file_with_a_near_name(h5ad, cells):
    path = h5ad(cells)
    assert "did you mean 'cells.h5ad'?" in refusal(path.with_name("cell.h5ad"), FileNotFoundError)
    assert ".h5ad" in refusal(path.with_name("quite-other"), FileNotFoundError)
    assert "there is no" in refusal(path.parent / "no" / "such" / "folder.h5ad", FileNotFoundError)


def test_no_right_to_read(h5ad, cells, monkeypatch):
    path = h5ad(cells)
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may read everything
    assert "may not be read by this user" in refusal(path, PermissionError)


def test_too_many_open_files_are_no_damage(h5ad, cells, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("scfm.cells.file.open_source", fail)
    said = refusal(h5ad(cells))
    assert "ulimit -n" in said and "damaged" not in said


def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "cells.h5ad")
    for path in (tmp_path / "cells.h5ad", Path("/dev/null")):
        assert "is a pipe or a device" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file of 0 bytes"),
        (b"gene,c1,c2\nA,1,2\n", "is not a file of cells (it starts with b'gene,c1,'); expected .h5ad"),
        (gzip.compress(b"x", mtime=0), "gunzip it first"),
        (b"PK\x03\x04zip", "unpack it first"),
    ],
)
def test_wrong_file_under_the_right_name(tmp_path, content, words):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    assert words in refusal(path)


def test_the_wrong_part_of_a_tenx_folder(tmp_path):
    (tmp_path / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n")
    assert "give the folder" in refusal(tmp_path / "matrix.mtx")


def test_an_empty_folder(tmp_path):
    assert "is a folder without cells" in refusal(tmp_path)


def test_hdf5_of_something_else(tmp_path):
    path = tmp_path / "weights.h5ad"
    with h5py.File(path, "w") as file:
        file["layer_1"] = np.zeros(3)
    assert "is HDF5 but not a file of cells: it has 'layer_1'" in refusal(path)


def test_no_obs_at_all(tmp_path):
    path = tmp_path / "x.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((3, 2))
    assert "has no 'obs'; it has 'X'" in refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
@pytest.mark.parametrize("compression", ["gzip", None])
def test_truncated(h5ad, cells, share, compression):
    path = h5ad(cells, compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("compression", ["gzip", None])
def test_flipped_bytes_are_refused_or_read_as_they_are_never_a_crash(h5ad, compression):
    rng = np.random.default_rng(0)
    dense = anndata.AnnData(csr_matrix(rng.poisson(1.0, (300, 60)).astype(np.float32)))
    path = h5ad(dense, compression=compression)
    content = path.read_bytes()
    refused = 0
    for _ in range(40):
        place = int(rng.integers(len(content)))
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            with open_cells(path) as cells:
                for block in cells.blocks():
                    assert block.counts.indices.max(initial=0) < 60
        except (ValueError, PermissionError) as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 0


def test_a_damaged_chunk_names_the_file(h5ad, cells):
    path = h5ad(cells, compression="gzip")
    with h5py.File(path, "r+") as file:
        file["X/indices"].id.write_direct_chunk((0,), b"this is no gzip")
    assert "damaged or was truncated" in refusal(path)


def test_no_cells_and_no_genes(h5ad, cells):
    assert "has no cells" in refusal(h5ad(cells[:0].copy()))
    assert "has no genes" in refusal(h5ad(cells[:, :0].copy()))


def test_no_matrix(h5ad, cells):
    empty = anndata.AnnData(obs=cells.obs, var=cells.var)
    assert "there is no layers['counts'], no raw.X and no X" in refusal(h5ad(empty))
    cells.layers["velocity"] = cells.X
    del cells.X
    message = refusal(h5ad(cells))
    assert "layers not looked at: 'velocity'" in message
    with open_cells(h5ad(cells), layer="velocity") as opened:
        assert opened.counts_from == "layers['velocity']"


def replace(path, name, values):
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)


def test_layers_that_are_an_array(h5ad, cells):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        del file["layers"]
        file["layers"] = np.zeros(3)
    assert "its layers are damaged: expected a group, found an array" in refusal(path)


def test_obs_var_and_x_of_different_length(h5ad, cells):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = np.array([49, 30])
    assert "indptr has 51 entries, expected 50" in refusal(path)
    path = h5ad(anndata.AnnData(cells.X.toarray(), obs=cells.obs, var=cells.var))
    replace(path, "X", np.ones((50, 29)))
    assert "its X is 50 x 29 but obs has 50 cells and var 30 genes" in refusal(path)
    path = h5ad(cells)
    replace(path, "obs/age", np.ones(48))
    assert "the column 'age' of /obs has 48 rows, its index 50" in refusal(path)
    path = h5ad(cells)
    replace(path, "X/indptr", np.arange(40))
    assert "X is damaged" in refusal(path)
    for number, dtype in ((30, "<i4"), (-1, "<i4"), (-1, "<i8"), (5000, ">i4"), (5000, "<u2")):
        path = h5ad(cells)
        values = cells.X.indices.astype(dtype)
        values[len(values) // 2] = number
        replace(path, "X/indices", values)
        assert "a column number is outside 30 columns" in refusal(path)


def test_cell_names_that_occur_twice(h5ad, cells):
    cells.obs_names = [f"AAAC{i % 48}-1" for i in range(50)]
    path = h5ad(cells)
    message = refusal(path)
    assert "has 2 cells whose name occurs before, first 'AAAC0-1' in row 48" in message
    assert "on_duplicate_cells=number" in message
    with open_cells(path, on_duplicate_cells="number") as opened:
        names = [name for block in opened.blocks(size=9) for name in block.obs.index]
        assert names[48:] == ["AAAC0-1-1", "AAAC1-1-1"]
        assert names == list(opened.obs.index)
        assert len(set(names)) == 50
    with open_cells(path, on_duplicate_cells="ignore") as opened:
        assert list(opened.obs.index) == list(cells.obs_names)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "nan (NaN (missing values))"), (-2, "-2 (negative values)"), (np.inf, "inf"), (0.5, "0.5 (fractions)")],
)
@pytest.mark.parametrize("layout", ["csr", "dense"])
def test_one_bad_value_in_one_block_of_a_thousand(h5ad, cells, value, words, layout, monkeypatch):
    monkeypatch.setattr(counts, "SAMPLE", 64)  # opening samples; this value is not in the sample
    matrix = np.ones((1000, 30), dtype=np.float32)
    matrix[777, 13] = value
    matrix = csr_matrix(matrix) if layout == "csr" else matrix
    path = h5ad(anndata.AnnData(matrix, var=cells.var))
    with open_cells(path) as opened:
        assert sum(1 for _ in opened.blocks(0, 777, size=1)) == 777
    message = refusal(path)
    assert f"cell '777' has {words}" in message or f"cell '777' has {value} ({words}" in message
    assert "at gene 'ENSG00000000013' in X" in message


def test_bad_values_in_the_sample_are_named_at_once(h5ad, cells):
    cells.X[7, 0] = np.nan
    path = h5ad(cells)
    with pytest.raises(ValueError, match=r"X holds NaN \(missing values\) \(nan in cell 'cell-7'\)"):
        open_cells(path)
    with pytest.raises(ValueError, match="must be non-negative, without NaN"):
        open_cells(path, counts="lognorm_ok")


def test_lognorm_refuses_nan_while_reading_but_not_fractions(h5ad, cells, monkeypatch):
    cells.X.data = np.log1p(cells.X.data)
    path = h5ad(cells)
    with open_cells(path, counts="lognorm_ok") as opened:
        assert len(list(opened.blocks())) == 1
    monkeypatch.setattr(counts, "judge", lambda source, place: counts.Candidate(place, place.matrix(), "fractions", ""))
    cells.X[20, 0] = np.nan
    message = refusal(h5ad(cells), counts="lognorm_ok")
    assert "cell 'cell-20' has nan" in message
    assert "values must be non-negative" in message


def test_unknown_obs_column(h5ad, cells):
    with open_cells(h5ad(cells)) as opened:
        with pytest.raises(ValueError, match=r"cells\.h5ad: obs has no column 'knid'; it has .*did you mean 'kind'\?"):
            opened.require_obs(["age", "knid"])
        with pytest.raises(ValueError, match="obs has no column 'Donor'.*did you mean 'donor'"):
            list(opened.blocks(columns=["Donor"]))


def test_cells_without_counts_are_told_apart(h5ad, cells):
    matrix = cells.X.tolil()
    matrix[[4, 9]] = 0
    cells.X = matrix.tocsr()
    with open_cells(h5ad(cells)) as opened:
        block = next(opened.blocks())
    assert list(np.flatnonzero(block.empty)) == [4, 9]
    assert (block.totals == np.asarray(cells.X.sum(1)).ravel()).all()


def test_paths_with_spaces_and_unicode(tmp_path, cells):
    folder = tmp_path / "meine Zellen – 细胞"
    folder.mkdir()
    path = folder / "größe 1 (π).h5ad"
    cells.write_h5ad(path)
    with open_cells(str(path)) as opened:
        assert (next(opened.blocks()).counts != cells.X).nnz == 0
    path.write_bytes(path.read_bytes()[:3000])
    refusal(path)


def test_files_older_than_anndata_0_7(tmp_path, cells):
    path = tmp_path / "old.h5ad"
    codes = cells.obs["kind"].cat.codes.to_numpy()
    obs = np.array(
        [(name.encode(), code, age) for name, code, age in zip(cells.obs_names, codes, cells.obs["age"], strict=True)],
        dtype=[("index", "S10"), ("kind", "i1"), ("age", "f4")],
    )
    with h5py.File(path, "w") as file:
        file["obs"] = obs
        file["var"] = np.array([(name.encode(),) for name in cells.var_names], dtype=[("index", "S10")])
        file["uns/kind_categories"] = np.array([name.encode() for name in cells.obs["kind"].cat.categories])
        group = file.create_group("X")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(cells.X, name)
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(cells.shape)
    with open_cells(path) as opened:
        assert (next(opened.blocks()).counts != cells.X).nnz == 0
        pd.testing.assert_series_equal(opened.obs["kind"].astype(str), cells.obs["kind"].astype(str))
        assert opened.genes == list(cells.var_names)


def test_text_that_is_no_utf8_and_a_column_of_two_dimensions_name_the_file(cells, h5ad):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        for name, values in {
            "plate": np.zeros((50, 2)),
            "age": np.array(["Z\u00fcrich".encode("latin-1")] * 50),
        }.items():
            del file["obs"][name]
            file["obs"][name] = values
    with open_cells(path) as opened:
        assert next(opened.blocks(columns=["kind"])).counts.nnz
        for read in (lambda name: opened.obs_rows(0, 5, [name]), lambda name: next(opened.blocks(columns=[name]))):
            with pytest.raises(
                ValueError, match=r"^.*cells\.h5ad: its /obs/plate has 2 dimensions, expected one value"
            ):
                read("plate")
            with pytest.raises(ValueError, match=r"^[^:]*cells\.h5ad: obs \(age\) holds text that is no UTF-8"):
                read("age")


def test_a_column_of_unknown_kind(h5ad, cells):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        file["obs/kind"].attrs["encoding-type"] = "kategorie"
    assert "its /obs/kind is of no kind that AnnData can read" in refusal(path)
