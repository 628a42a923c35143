"""Sound files that were called damaged: filters of other packages, members that are optional, stale metadata."""

import h5py
import numpy as np
import pytest
import zarr

from scfm.cells.file import open_cells
from scfm.cells.formats.filters import NAMES


@pytest.mark.parametrize("code", [32015, 32001, 32008, 31999])
@pytest.mark.parametrize("name", ["X/data", "X/indices", "obs/age"])
def test_a_missing_filter_is_named_with_its_package(cells, h5ad, code, name):
    if h5py.h5z.filter_avail(code):
        pytest.skip("this HDF5 has the filter")
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        values, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((len(values),))
        created.set_filter(code, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((len(values),))
        kind = h5py.h5t.py_create(values.dtype)
        made = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=created))
        made.id.write_direct_chunk((0,), b"what the filter made of it")
        made.attrs.update(attributes)
    with pytest.raises(ValueError, match=rf"cells\.h5ad: is compressed with the filter .*{name}.*hdf5plugin") as caught:
        open_cells(path)
    assert NAMES.get(code, str(code)) in str(caught.value)


def test_filters_of_parts_that_are_not_read_do_not_matter(cells, h5ad):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((3,))
        created.set_filter(31999, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(file["uns"].id, b"x", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((3,)), dcpl=created)
    with open_cells(path) as opened:
        assert opened.n_cells == 50


def write_tenx(path, cells, features, group="matrix", without=()):
    with h5py.File(path, "w") as file:
        matrix = file.create_group(group)
        matrix["barcodes"] = np.array([name.encode() for name in cells.obs_names])
        matrix["shape"] = np.array(cells.shape[::-1])
        for member in ("data", "indices", "indptr"):
            matrix[member] = getattr(cells.X, member).astype(np.int32)
        for name, values in features.items():
            matrix[name] = np.array([value.encode() for value in values])
        for name in without:
            del matrix[name]
    return path


@pytest.mark.parametrize(
    "members", [("id", "name"), ("id",), ("name",), ("id", "name", "feature_type"), ("name", "genome")]
)
def test_members_of_10x_files_are_optional(cells, tmp_path, members):
    ids, symbols = list(cells.var["gene_id"]), list(cells.var_names)
    values = {"id": ids, "name": symbols, "feature_type": ["Gene Expression"] * 30, "genome": ["GRCh38"] * 30}
    path = write_tenx(tmp_path / "x.h5", cells, {f"features/{name}": values[name] for name in members})
    with open_cells(path) as opened:
        assert opened.genes == (ids if "id" in members else symbols)
        assert (next(opened.blocks()).counts != cells.X).nnz == 0


@pytest.mark.parametrize("members", [("genes", "gene_names"), ("genes",), ("gene_names",)])
def test_members_of_10x_files_of_version_2_are_optional(cells, tmp_path, members):
    values = {"genes": list(cells.var["gene_id"]), "gene_names": list(cells.var_names)}
    path = write_tenx(tmp_path / "x.h5", cells, {name: values[name] for name in members}, group="GRCh38")
    with open_cells(path) as opened:
        assert opened.genes == values[members[0]]


@pytest.mark.parametrize("member", ["shape", "data", "indices", "indptr"])
def test_a_missing_member_of_a_10x_file_is_named(cells, tmp_path, member):
    path = write_tenx(tmp_path / "x.h5", cells, {"features/id": cells.var["gene_id"]}, without=[member])
    with pytest.raises(ValueError, match=rf"x\.h5: looks like a 10x file, but its matrix has no '{member}'; it has"):
        open_cells(path)


def test_a_10x_file_without_names_of_genes(cells, tmp_path):
    path = write_tenx(tmp_path / "x.h5", cells, {"features/genome": ["GRCh38"] * 30})
    with pytest.raises(ValueError, match=r"neither 'id' nor 'name'; it has 'genome'"):
        open_cells(path)


def test_a_missing_part_is_not_called_damage(cells, h5ad):
    path = h5ad(cells)
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
    with pytest.raises(ValueError, match=r"cells\.h5ad: a part of it is missing"):
        open_cells(path)


def test_stale_consolidated_metadata_are_not_believed(cells, tmp_path):
    path = tmp_path / "x.zarr"
    cells.write_zarr(path)
    zarr.consolidate_metadata(str(path))
    group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    del group["obs/age"]
    group["obs"].attrs["column-order"] = [name for name in cells.obs.columns if name != "age"]
    with open_cells(path) as opened:
        assert list(opened.obs["kind"]) == list(cells.obs["kind"])
        assert "age" not in opened.obs_columns


def test_the_reference_case_of_cellbender(shared):
    with open_cells(shared / "cases" / "files" / "o11_no_feature_type.h5") as opened:
        assert len(opened.genes) == 400
        assert opened.genes[0].startswith("ENSG")


def test_the_reference_case_of_a_filter(shared):
    path = shared / "cases" / "files" / "o10_zstd.h5ad"
    try:
        with open_cells(path) as opened:
            assert opened.n_cells == 24
    except ValueError as error:
        assert "'zstd'" in str(error)
        assert "hdf5plugin" in str(error)
