"""Counts stored as half floats: scipy's sparse matrices have no such type."""

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.cells.file import open_cells


@pytest.mark.parametrize("kind", ["dense", "csr", "memory"])
def test_are_read_as_they_are(kind, tmp_path):
    counts = np.random.default_rng(0).poisson(2, (20, 30)).astype(np.float32)
    cells = ad.AnnData(csr_matrix(counts) if kind == "csr" else counts)
    cells.var_names = [f"GENE{i}" for i in range(30)]
    if kind == "memory":
        cells.X = counts.astype(np.float16)
    else:
        cells.write_h5ad(tmp_path / "x.h5ad")
        with h5py.File(tmp_path / "x.h5ad", "a") as file:
            parent, name = (file, "X") if kind == "dense" else (file["X"], "data")
            values, attributes = parent[name][:].astype(np.float16), dict(parent[name].attrs)
            del parent[name]
            parent.create_dataset(name, data=values).attrs.update(attributes)
    with open_cells(cells if kind == "memory" else tmp_path / "x.h5ad") as opened:
        found = np.vstack([block.counts.toarray() for block in opened.blocks()])
    np.testing.assert_array_equal(found, counts)
