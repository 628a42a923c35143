"""Every format, from a file that its own library wrote, gives the blocks of the .h5ad."""

import gzip
import shutil
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix, vstack

from scfm.cells.file import open_cells
from scfm.cells.formats import hdf5_matrix, row_sorter


def read(path, size=7, **options):
    with open_cells(path, **options) as opened:
        counts = vstack([block.counts for block in opened.blocks(size=size)])
        return counts, opened.obs, opened.genes


def require_same(path, cells, tmp_path, *, obs=(), **options):
    """The file's counts, names, genes and the columns ``obs`` equal those read from the .h5ad of the same cells."""
    cells.write_h5ad(tmp_path / "reference.h5ad")
    expected = read(tmp_path / "reference.h5ad")
    for size in (7, 1024):
        counts, frame, genes = read(path, size=size, **options)
        assert (counts != expected[0]).nnz == 0
        assert counts.nnz == expected[0].nnz
        assert list(frame.index) == list(expected[1].index)
        assert genes == expected[2]
        for column in obs:
            assert list(frame[column].astype(str)) == list(expected[1][column].astype(str)), column


OBS = ("kind", "age", "donor", "good", "plate")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"])
def test_zarr(cells, tmp_path, version, layout):
    before, anndata.settings.zarr_write_format = anndata.settings.zarr_write_format, version
    try:
        other = cells.copy()
        other.X = layout(cells.X)
        other.write_zarr(tmp_path / "cells.zarr")
    finally:
        anndata.settings.zarr_write_format = before
    require_same(tmp_path / "cells.zarr", cells, tmp_path, obs=OBS)


def rechunk(path, names, **options):
    group = zarr.open_group(str(path), mode="r+", use_consolidated=False)["X"]
    for name in names:
        values = group[name][:]
        del group[name]
        group.create_array(name, data=values, **options)
    zarr.consolidate_metadata(str(path))


def test_zarr_sharded(cells, tmp_path):
    before, anndata.settings.zarr_write_format = anndata.settings.zarr_write_format, 3
    try:
        cells.write_zarr(tmp_path / "cells.zarr")
    finally:
        anndata.settings.zarr_write_format = before
    rechunk(tmp_path / "cells.zarr", ("data", "indices"), chunks=(16,), shards=(64,))
    assert zarr.open_group(str(tmp_path / "cells.zarr"))["X/data"].shards == (64,)
    require_same(tmp_path / "cells.zarr", cells, tmp_path, obs=OBS)


def test_zarr_that_was_copied_in_part_is_refused(cells, tmp_path):
    cells.write_zarr(tmp_path / "cells.zarr")
    rechunk(tmp_path / "cells.zarr", ("data",), chunks=(64,))
    folder = tmp_path / "cells.zarr" / "X" / "data"
    lost = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[:1].isdigit())[1]
    lost.unlink()
    with pytest.raises(ValueError, match=r"cells\.zarr.*X/data has \d+ of \d+ chunks"):
        open_cells(tmp_path / "cells.zarr")


def write_tenx(path, cells, version):
    """As Cell Ranger writes it; it has no library of its own in Python, so h5py by 10x's description of the format."""
    columns = cells.X.T.tocsc().astype(np.int32)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for name, values in (("data", columns.data), ("indices", columns.indices), ("indptr", columns.indptr)):
            group.create_dataset(name, data=values, chunks=(64,), compression="gzip", shuffle=True, maxshape=(None,))
        group["shape"] = np.array(columns.shape, dtype=np.int32)
        group["barcodes"] = cells.obs_names.to_numpy().astype("S")
        if version == 2:
            group["genes"], group["gene_names"] = (
                cells.var["gene_id"].to_numpy().astype("S"),
                cells.var_names.to_numpy().astype("S"),
            )
            return
        features = group.create_group("features")
        features["id"], features["name"] = (
            cells.var["gene_id"].to_numpy().astype("S"),
            cells.var_names.to_numpy().astype("S"),
        )
        features["feature_type"] = np.array(
            cells.var.get("feature_types", ["Gene Expression"] * cells.n_vars), dtype="S"
        )


@pytest.mark.parametrize("version", [2, 3])
def test_tenx_h5(cells, tmp_path, version):
    cells.var["feature_types"] = "Gene Expression"
    write_tenx(tmp_path / "filtered.h5", cells, version)
    require_same(tmp_path / "filtered.h5", cells, tmp_path)
    scanpy = pytest.importorskip("scanpy")
    theirs = scanpy.read_10x_h5(tmp_path / "filtered.h5")
    assert (read(tmp_path / "filtered.h5")[0] != theirs.X).nnz == 0, "scanpy reads the same file the same way"


def test_tenx_h5_leaves_antibodies_out(cells, tmp_path):
    cells.var["feature_types"] = ["Gene Expression"] * 25 + ["Antibody Capture"] * 5
    write_tenx(tmp_path / "filtered.h5", cells, 3)
    counts, _, genes = read(tmp_path / "filtered.h5")
    assert (counts != cells.X[:, :25]).nnz == 0
    assert len(genes) == 25


def write_market(folder, cells, *, packed, version, prefix="", transposed=True, field="integer"):
    folder.mkdir(exist_ok=True)
    features = cells.var[["gene_id"]].assign(name=cells.var_names)
    if version == 3:
        features["type"] = "Gene Expression"
    mmwrite(folder / f"{prefix}matrix.mtx", (cells.X.T if transposed else cells.X).astype(int).tocoo(), field=field)
    features.to_csv(
        folder / f"{prefix}{'features' if version == 3 else 'genes'}.tsv", sep="\t", header=False, index=False
    )
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
    for path in list(folder.iterdir()):
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_tenx_folder(cells, tmp_path, packed, version, prefix):
    folder = write_market(tmp_path / "filtered", cells, packed=packed, version=version, prefix=prefix)
    require_same(folder, cells, tmp_path)


@pytest.mark.parametrize("field", ["integer", "real"])
def test_tenx_folder_of_cells_by_genes_out_of_core(cells, tmp_path, field, monkeypatch):
    monkeypatch.setattr(row_sorter.RowRanges.__init__, "__defaults__", (100,))
    folder = write_market(tmp_path / "filtered", cells, packed=False, version=3, transposed=False, field=field)
    require_same(folder, cells, tmp_path)


def test_loom(cells, tmp_path):
    loompy = pytest.importorskip("loompy")
    row = {"Gene": cells.var_names.to_numpy(), "Accession": cells.var["gene_id"].to_numpy()}
    column = {"CellID": cells.obs_names.to_numpy(), **{name: cells.obs[name].to_numpy() for name in ("age", "plate")}}
    column["donor"] = cells.obs["donor"].astype(str).to_numpy()
    column["umap"] = np.zeros((cells.n_obs, 2))
    loompy.create(
        str(tmp_path / "cells.loom"), {"": cells.X.T.toarray(), "spliced": cells.X.T.toarray() * 2}, row, column
    )
    require_same(tmp_path / "cells.loom", cells, tmp_path, obs=("age", "plate", "donor"))
    doubled, _, _ = read(tmp_path / "cells.loom", layer="spliced")
    assert (doubled != cells.X * 2).nnz == 0


def test_loom_in_slabs(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_matrix, "SLAB", 1)
    loompy = pytest.importorskip("loompy")
    row, column = {"Gene": cells.var["gene_id"].to_numpy()}, {"CellID": cells.obs_names.to_numpy()}
    loompy.create(str(tmp_path / "cells.loom"), cells.X.T.toarray(), row, column)
    require_same(tmp_path / "cells.loom", cells, tmp_path)


def test_mudata(cells, tmp_path):
    mudata = pytest.importorskip("mudata")
    protein = anndata.AnnData(csr_matrix(np.ones((cells.n_obs, 2))), obs=pd.DataFrame(index=cells.obs_names))
    mudata.MuData({"rna": cells, "prot": protein}).write(tmp_path / "cells.h5mu")
    require_same(tmp_path / "cells.h5mu", cells, tmp_path, obs=OBS)
    assert read(tmp_path / "cells.h5mu", mod="prot")[0].shape == (50, 2)
    assert read(tmp_path / "cells.h5mu", mod="RNA")[0].shape == cells.shape
    with pytest.raises(ValueError, match=r"no modality 'rnas'.*did you mean 'rna'"):
        open_cells(tmp_path / "cells.h5mu", mod="rnas")


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    (tmp_path / "census" / "__group").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    with pytest.raises(ImportError, match=r'needs tiledbsoma; pip install "scfm-framework\[soma\]"'):
        open_cells(tmp_path / "census")


def test_two_genomes_in_one_file_are_refused_unless_one_is_named(cells, tmp_path):
    write_tenx(tmp_path / "one.h5", cells, 2)
    shutil.copy(tmp_path / "one.h5", tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(ValueError, match=r"two\.h5.*several genomes \(GRCh38, mm10\).*mod=GRCh38"):
        open_cells(tmp_path / "two.h5")
    with h5py.File(tmp_path / "two.h5", "r+") as file:
        file["mm10/data"][:] = 7
    for genome, expected in {
        "GRCh38": cells.X,
        "mm10": csr_matrix((np.full(cells.X.nnz, 7), cells.X.nonzero()), shape=cells.shape),
    }.items():
        with open_cells(tmp_path / "two.h5", mod=genome) as opened:
            assert abs(next(opened.blocks()).counts - expected).max() == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "barcodes.tsv").unlink(), "needs one barcodes.tsv"),
        (lambda folder: (folder / "genes.tsv").write_text("a\tb\n"), "needs one features.tsv or genes.tsv"),
        (
            lambda folder: (folder / "barcodes.tsv").write_text("one\n"),
            "30 x 50 but there are 30 features and 1 barcodes",
        ),
        (lambda folder: cut(folder / "matrix.mtx"), "its header promises|truncated"),
        (lambda folder: (folder / "matrix.mtx").write_text("x\n"), "starts with 'x'"),
        (lambda folder: (folder / "features.tsv").write_bytes(b""), "features.tsv is empty"),
        (lambda folder: outside(folder / "matrix.mtx"), "entry outside its 30 x 50"),
    ],
)
def test_damaged_folders(cells, tmp_path, damage, message):
    folder = write_market(tmp_path / "filtered", cells, packed=False, version=3)
    damage(folder)
    with pytest.raises(ValueError, match=f"filtered.*{message}"):
        read(folder)


def cut(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: len(lines) // 2]) + "\n")


def outside(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], "31 1 1"]) + "\n")


def test_a_truncated_gz_is_refused(cells, tmp_path):
    folder = write_market(tmp_path / "filtered", cells, packed=True, version=3)
    whole = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"filtered.*matrix\.mtx\.gz is damaged or truncated"):
        read(folder)
