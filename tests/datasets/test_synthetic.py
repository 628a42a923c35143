"""The made-up cells: what is promised about them is in them."""

import anndata
import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression

from scfm.cells.file import open_cells
from scfm.datasets.synthetic import synthetic_cells, synthetic_file
from scfm.genes import resolve


def log_normal(cells):
    counts = cells.X.toarray()
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def test_same_seed_same_cells_and_another_seed_others():
    one, two, other = (synthetic_cells(n_cells=100, n_genes=80, seed=seed) for seed in (3, 3, 4))
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)
    assert list(one.var_names) == list(two.var_names)
    assert (one.X[:, :50] != other.X[:, :50]).nnz > 0


def test_pieces_hold_all_cells_once():
    cells = synthetic_cells(n_cells=5000, n_genes=60)
    assert cells.shape == (5000, 60)
    assert issparse(cells.X)
    assert cells.X.dtype == np.int32
    assert (np.asarray(cells.X.sum(1)).ravel() > 0).all()
    assert 1500 < np.median(np.asarray(cells.X.sum(1))) < 2500


def test_columns_of_obs_are_as_documented():
    cells = synthetic_cells(n_cells=1000, n_genes=100)
    time = cells.obs["pseudotime"].to_numpy()
    assert time.min() >= 0
    assert time.max() <= 1
    assert (cells.obs["cell_type"].cat.codes.to_numpy() == np.floor(time * 5)).all()
    assert cells.obs.groupby("donor", observed=True)["batch"].nunique().max() == 1, "donors are nested in batches"
    assert cells.obs.groupby("donor", observed=True)["cell_type"].nunique().min() == 5


def test_genes_are_real_by_symbol_and_by_id():
    cells = synthetic_cells(n_cells=10, n_genes=300)
    assert cells.var_names.is_unique
    assert resolve(list(cells.var_names)) == list(cells.var["gene_id"])


def test_a_classifier_learns_the_types_on_unseen_donors_and_time_is_in_the_genes():
    cells = synthetic_cells(n_cells=1500, n_genes=400)
    values, kind = log_normal(cells), cells.obs["cell_type"].to_numpy()
    seen = ~cells.obs["donor"].isin(["donor 1"]).to_numpy()
    model = LogisticRegression(max_iter=300).fit(values[seen], kind[seen])
    assert model.score(values[~seen], kind[~seen]) > 0.9
    first = cells.obs["cell_type"].to_numpy() == "type 3"
    time = cells.obs["pseudotime"].to_numpy()[first]
    best = max(abs(np.corrcoef(column, time)[0, 1]) for column in values[first].T if column.std() > 0)
    assert best > 0.25, "genes change along the trajectory inside a type, too"


def test_batches_shift_the_genes():
    values = {b: synthetic_cells(n_cells=900, n_genes=200, batch_strength=b) for b in (0.0, 1.0)}

    def spread(cells):
        table = log_normal(cells)
        means = [table[(cells.obs["batch"] == name).to_numpy()].mean(0) for name in cells.obs["batch"].cat.categories]
        return np.std(means, axis=0).mean()

    assert spread(values[1.0]) > 3 * spread(values[0.0])


@pytest.mark.parametrize("option", [{"n_cells": 0}, {"n_types": 0}, {"n_genes": 10**6}])
def test_impossible_numbers_are_refused(option):
    with pytest.raises(ValueError, match="synthetic cells"):
        synthetic_cells(**option)


def test_the_file_is_read_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    path = synthetic_file(n_cells=50, n_genes=40)
    assert path == synthetic_file(n_cells=50, n_genes=40)
    assert [other.name for other in path.parent.iterdir()] == [path.name], "nothing half-written stays"
    with open_cells(path) as cells:
        block = next(cells.blocks())
    assert (block.counts != anndata.read_h5ad(path).X).nnz == 0
    assert cells.genes[0].startswith("ENSG")
