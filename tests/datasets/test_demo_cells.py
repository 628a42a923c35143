"""The shipped cells: what they hold, that they are raw, that their license lies beside them."""

import anndata
import numpy as np

from scfm.datasets.demo_cells import demo_file


def test_demo_cells_are_what_the_docs_say():
    cells = anndata.read_h5ad(demo_file())
    assert cells.shape == (1336, 11180)
    assert cells.obs["cell_type"].nunique() == 11
    assert cells.obs["lane"].nunique() == 13
    assert cells.obs_names.is_unique
    assert cells.var_names.is_unique
    assert np.issubdtype(cells.X.dtype, np.integer)
    assert (np.diff(cells.X.indptr) > 0).all(), "every cell has counts"
    assert (demo_file().parent / cells.uns["license"].split()[-1]).read_text().startswith("BSD 3-Clause")


def test_demo_cells_are_the_counts_of_their_source(shared):
    ours = anndata.read_h5ad(demo_file())
    source = anndata.read_h5ad(shared / "data" / "hao_pbmc_small.h5ad")[ours.obs_names, ours.var_names]
    assert (ours.X.astype(np.int64) != source.X.astype(np.int64)).nnz == 0
    assert (ours.obs["cell_type"].astype(str) == source.obs["cell_type"].astype(str)).all()
    assert (ours.obs["lane"].astype(str) == source.obs["lane"].astype(str)).all()
