"""MuData in HDF5 and zarr: one modality, with the labels of all modalities joined by the cells' names."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem

from scfm.cells.file import open_cells


@pytest.fixture(params=["h5mu", "zarr"])
def write(request, cells, tmp_path):
    """Writes modalities and a global obs."""

    def write(obs, **modalities):
        path = tmp_path / f"x.{request.param}"
        group = h5py.File(path, "w") if request.param == "h5mu" else zarr.open_group(str(path), mode="w")
        for name, modality in modalities.items():
            write_elem(group, f"mod/{name}", modality)
        if obs is not None:
            write_elem(group, "obs", obs)
        if request.param == "h5mu":
            group.close()
        return path

    return write


@pytest.fixture
def other(cells):
    proteins = pd.DataFrame({"feature_types": ["Antibody Capture"] * 4}, index=["CD3E", "CD4", "CD8A", "CD19"])
    return ad.AnnData(np.ones((50, 4), dtype=np.float32), obs=cells.obs[[]], var=proteins)


def test_a_modality_is_chosen(write, cells, other):
    path = write(None, rna=cells, prot=other)
    with open_cells(path) as opened:
        assert list(opened.obs["kind"]) == list(cells.obs["kind"])
        assert (next(opened.blocks()).counts != cells.X).nnz == 0
    with open_cells(path, mod="prot") as opened:
        assert opened.genes == list(other.var_names)
    with open_cells(write(None, RNA=cells, prot=other)) as opened:
        assert opened.genes == list(cells.var["gene_id"])
    with pytest.raises(ValueError, match=r"no modality 'rna'; it has 'RNA', 'Rna'"):
        open_cells(write(None, RNA=cells, Rna=cells))
    path = write(None, rna=cells, prot=other)
    with pytest.raises(ValueError, match=r"no modality 'atac'; it has 'prot', 'rna'.*mod="):
        open_cells(path, mod="atac")


def test_global_labels_are_joined_by_name(write, cells, other):
    order = np.random.default_rng(0).permutation(50)[:40]
    names = [cells.obs_names[i] for i in order]
    shared = pd.DataFrame({"label": [f"L{i}" for i in order], "kind": "global"}, index=[*names, "prot-only"][:40])
    shared.loc["prot-only"] = ["P", "global"]
    shared["class"] = pd.Categorical(shared["label"])
    with open_cells(write(shared, rna=cells, prot=other)) as opened:
        assert opened.obs_columns == [*cells.obs.columns, "label", "class"]
        expected = [f"L{i}" if i in order else None for i in range(50)]
        blocks = pd.concat([block.obs for block in opened.blocks(size=7, columns=["class", "kind", "label"])])
        for column in ("label", "class"):
            assert blocks[column].astype(object).where(blocks[column].notna(), None).tolist() == expected
        assert list(blocks["kind"]) == list(cells.obs["kind"])
        assert list(blocks.columns) == ["class", "kind", "label"]


def test_global_labels_that_cannot_be_joined_are_refused_where_they_are_asked_for(write, cells):
    shared = pd.DataFrame({"label": "x"}, index=["cell-1"] * 50)
    with open_cells(write(shared, rna=cells)) as opened:
        assert len(list(opened.blocks(columns=["kind"]))) == 1
        with pytest.raises(ValueError, match="cells of one name twice"):
            list(opened.blocks(columns=["label"]))
