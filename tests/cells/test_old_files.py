"""Files of older AnnData: categories in uns, as a scalar, or named by an attribute."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from scfm.cells.file import open_cells

KINDS = ["B-Zelle", "T cell", "细胞"]


def write_old(path, cells, categories, var_codes=None):
    """The layout before AnnData 0.7: compound obs and var, categories in uns."""
    with h5py.File(path, "w") as file:
        obs = np.zeros(cells.n_obs, [("index", "S20"), ("kind", "i1"), ("plate", "i4")])
        obs["index"] = [name.encode() for name in cells.obs_names]
        obs["kind"], obs["plate"] = np.arange(cells.n_obs) % 3, np.arange(cells.n_obs)
        var = np.zeros(cells.n_vars, [("index", "S20"), ("feature_types", "i1")])
        var["index"] = [name.encode() for name in cells.var_names]
        if var_codes is not None:
            var["feature_types"] = var_codes
        file["obs"], file["var"], file["X"] = obs, var, cells.X.toarray()
        for name, values in categories.items():
            file[name] = values
    return path


def test_categories_in_uns_equal_those_of_anndata(cells, tmp_path):
    texts = np.array([kind.encode() for kind in KINDS])
    path = write_old(tmp_path / "x.h5ad", cells, {"uns/kind_categories": texts})
    with open_cells(path) as opened:
        assert list(opened.obs["kind"]) == [KINDS[i % 3] for i in range(50)]
        assert opened.obs["plate"].tolist() == list(range(50))


@pytest.mark.parametrize("value", ["pbmc", b"pbmc", 7])
def test_one_category_as_a_scalar(cells, tmp_path, value):
    path = write_old(tmp_path / "x.h5ad", cells, {"uns/sample_categories": value})
    with h5py.File(path, "r+") as file:
        obs = file["obs"][:]
        del file["obs"]
        wider = np.zeros(50, [("index", "S20"), ("kind", "i1"), ("plate", "i4"), ("sample", "i1")])
        for name in obs.dtype.names:
            wider[name] = obs[name]
        file["obs"] = wider
    with open_cells(path) as opened:
        assert [str(name) for name in opened.obs["sample"]] == ["7" if value == 7 else "pbmc"] * 50


def test_codes_beyond_the_categories_stay_integers_as_in_anndata(cells, tmp_path, caplog):
    path = write_old(tmp_path / "x.h5ad", cells, {"uns/kind_categories": np.array([b"a", b"b"])})
    with open_cells(path) as opened:
        assert opened.obs["kind"].tolist() == [i % 3 for i in range(50)]
    assert "'kind' of /obs holds integers, and the category names beside it" in caplog.text


def test_feature_types_of_an_old_raw_are_texts(cells, tmp_path):
    kinds = {"raw.cat/feature_types_categories": np.array([b"Antibody Capture", b"Gene Expression"])}
    kinds["uns/feature_types_categories"] = np.array([b"Gene Expression", b"Antibody Capture"])
    path = write_old(tmp_path / "x.h5ad", cells, kinds, var_codes=np.arange(30) >= 25)
    with h5py.File(path, "r+") as file:
        var = file["var"][:]
        var["feature_types"] = np.arange(30) < 25
        file["raw.var"], file["raw.X"] = var, file["X"][:]
    with open_cells(path) as opened:
        assert (opened.counts_from, opened.genes) == ("raw.X", [f"GENE{i}" for i in range(25)])


@pytest.fixture
def zarr07(cells, tmp_path):
    """obs/kind as AnnData 0.7 wrote it: codes with an attribute that names the categories."""
    cells.write_zarr(tmp_path / "x.zarr")
    root = zarr.open_group(str(tmp_path / "x.zarr"), mode="a", use_consolidated=False)
    obs = root["obs"]
    codes, names = obs["kind/codes"][:], obs["kind/categories"][:]
    del obs["kind"]
    obs.create_array("kind", data=codes)
    group = obs.create_group("__categories")
    group.create_array("kind", shape=(len(names),), dtype=str)[:] = np.array(list(names))
    return tmp_path / "x.zarr", obs["kind"]


def test_zarr_of_anndata_07(cells, zarr07):
    path, codes = zarr07
    codes.attrs["categories"] = "__categories/kind"
    with open_cells(path) as opened:
        assert list(opened.obs["kind"]) == list(cells.obs["kind"])


def test_codes_that_lost_their_categories_are_warned_of(cells, zarr07, caplog):
    with open_cells(zarr07[0]) as opened:
        assert opened.obs["kind"].tolist() == list(cells.obs["kind"].cat.codes)
    assert "holds integers, and the category names beside it" in caplog.text


def test_codes_outside_their_categories_name_the_column(cells, h5ad):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        file["obs/kind/codes"][3] = 9
    with open_cells(path) as opened, pytest.raises(ValueError, match="/obs/kind has the code 9"):
        list(opened.blocks())


@pytest.mark.parametrize("name", ["feature_id", "ensembl", "gene_ids"])
def test_the_gene_column_by_the_name_of_the_index(cells, h5ad, name):
    cells.var = pd.DataFrame({"feature_name": cells.var_names}, index=pd.Index(cells.var["gene_id"], name=name))
    cells.raw = cells.copy()
    with open_cells(h5ad(cells), gene_column=name) as opened:
        assert (opened.genes, opened.genes_from) == (list(cells.var_names), "var.index")
    with pytest.raises(ValueError, match=rf"no column 'nosuch' for gene_column; it has '{name}', 'feature_name'"):
        open_cells(h5ad(cells), gene_column="nosuch")


def test_the_reference_case_of_zarr(shared):
    path = shared / "cases" / "files" / "o03_anndata07.zarr"
    obs = zarr.open_group(str(path), mode="r", use_consolidated=False)["obs"]
    names = np.array(list(obs["__categories/cell_type"][:]))
    with open_cells(path) as opened:
        assert list(opened.obs["cell_type"]) == names[obs["cell_type"][:]].tolist()


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("name", ["o04_old_scalar_category.h5ad", "o12_old_with_obsm.h5ad"])
def test_reference_cases(shared, name):
    path = shared / "cases" / "files" / name
    expected = ad.read_h5ad(path).obs
    with open_cells(path) as opened:
        for column in expected:
            assert list(opened.obs[column].astype(str)) == list(expected[column].astype(str))


def test_the_reference_case_of_an_index_name(shared):
    with open_cells(shared / "cases" / "files" / "o15_index_name.h5ad", gene_column="feature_id") as opened:
        assert opened.genes_from == "var.index"
