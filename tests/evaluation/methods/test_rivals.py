"""The classifiers that a user would take instead: they learn, on genes as they are found, and see no test cell."""

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.methods.probes import cross_predict
from scfm.evaluation.methods.rivals import RIVALS, celltypist, genes


def cells(n_classes=3, n=180, seed=0):
    """Ten genes of each type are four times as high in it."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    rate = np.full((n, 120), 0.8)
    for code in range(n_classes):
        rate[np.ix_(codes == code, range(10 * code, 10 * code + 10))] *= 4
    return AnnData(csr_matrix(rng.poisson(rate).astype(np.float32))), codes


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_learns_types_that_genes_tell(name, n_classes):
    adata, codes = cells(n_classes)
    rival = RIVALS[name]
    folds = [(np.arange(120), np.arange(120, 180))]
    calls = cross_predict(rival.read(read_expression(adata), 0), rival.model, codes, folds)
    assert (calls.codes == codes[calls.rows]).mean() > 0.9
    assert ((calls.confidence > 0) & (calls.confidence <= 1 + 1e-9)).all()


@pytest.mark.parametrize("name", RIVALS)
def test_none_knows_the_test_cells(name):
    adata, codes = cells()
    other = adata.copy()
    other.X = csr_matrix(np.vstack([adata.X[:150].toarray(), adata.X[:30].toarray() * 5]))
    rival, folds = RIVALS[name], [(np.arange(120), np.arange(120, 150))]
    one, two = (
        cross_predict(rival.read(read_expression(made), 0), rival.model, codes, folds) for made in (adata, other)
    )
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_allclose(one.confidence, two.confidence, atol=1e-6)


@pytest.mark.parametrize("model", [genes, celltypist])
def test_a_class_without_training_cells_is_never_called(model):
    adata, codes = cells()
    values, train = read_expression(adata).values, codes < 2
    seen, probabilities = model(values[train], codes[train], values[~train])
    assert seen.tolist() == [0, 1]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_an_evaluation_has_the_rivals_that_were_asked_for(make_adata):
    adata = make_adata()
    options = {"label": "type", "controls": False, "baselines": (), "draws": 20, "folds": 2}
    table = evaluate(adata, rivals=("genes", "celltypist"), **options).scores["annotation"]
    assert {"logistic regression on all genes", "CellTypist's recipe", "majority class"} <= set(table.index)
    assert "logistic regression on HVGs" not in table.index
    with pytest.raises(ValueError, match=r"rivals=\['lightgbm'\]: lightgbm is unknown; choose from hvg, pca, genes"):
        evaluate(adata, rivals=("lightgbm",), **options)
