"""Two files of made-up cells, a tokenizer fitted on them, and the store of both."""

import anndata as ad
import pytest
from scipy.sparse import csr_matrix

from prepared import median_tokenizer
from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.api import prepare
from scfm.tokenizer import GeneStatistics
from support import checksums


@pytest.fixture(scope="session")
def cells():
    return synthetic_cells(n_cells=300, n_genes=200, seed=1)


@pytest.fixture(scope="session")
def files(cells, tmp_path_factory):
    """Two files with spaces and other letters in their names."""
    folder = tmp_path_factory.mktemp("in put ä")
    paths = [folder / "one cell.h5ad", folder / "zwei.h5ad"]
    cells[:170].write_h5ad(paths[0], compression="gzip")
    cells[170:].write_h5ad(paths[1])
    return paths


@pytest.fixture(scope="session")
def fitted(files):
    statistics = GeneStatistics()
    for path in files:
        adata = ad.read_h5ad(path)
        statistics.update(csr_matrix(adata.X), list(adata.var["gene_id"]))
    return median_tokenizer().fit(statistics)


@pytest.fixture(scope="session")
def store(files, fitted, tmp_path_factory):
    return prepare(files, tmp_path_factory.mktemp("out") / "s", fitted, obs=["cell_type", "pseudotime"], group="donor")


@pytest.fixture(scope="session")
def reference(files, fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "s"
    prepare(files, folder, fitted, cells_per_part=50, obs=["donor"])
    return checksums(folder)


@pytest.fixture
def fitted_on():
    """Makes a tokenizer fitted on one file whose index or gene_id are Ensembl ids."""

    def fit(path, leave_out=None):
        adata = ad.read_h5ad(path)
        adata = adata[:, adata.var_names != leave_out]
        statistics = GeneStatistics()
        statistics.update(csr_matrix(adata.X), list(adata.var_names))
        return median_tokenizer().fit(statistics)

    return fit
