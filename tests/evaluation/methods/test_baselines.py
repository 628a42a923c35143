"""Baselines and the expression they stand on; what is fitted must not know the test cells."""

import builtins

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scfm.evaluation.methods import baselines as baseline
from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.methods.probes import constant_features, cross_predict, linear, majority, nearest
from scfm.head.variable_genes import variable_genes
from scfm.optional import need


def test_genes_and_values_equal_scanpy(make_adata):
    scanpy = pytest.importorskip("scanpy")
    adata = make_adata(n_genes=400)
    expression = read_expression(adata)
    theirs = adata.copy()
    scanpy.pp.normalize_total(theirs, target_sum=1e4)
    scanpy.pp.log1p(theirs)
    np.testing.assert_allclose(expression.values.toarray(), theirs.X.toarray(), rtol=1e-5)
    scanpy.pp.highly_variable_genes(theirs, n_top_genes=100)
    np.testing.assert_array_equal(variable_genes(expression.values, 100), np.flatnonzero(theirs.var["highly_variable"]))


def test_scaling_does_not_know_the_other_cells(make_adata):
    first, second = make_adata(), make_adata()
    second.X[200:] = 7 * second.X[200:]
    rows = np.arange(200)
    one, two = (read_expression(adata).scaled(rows, 50)[rows] for adata in (first, second))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("place", ["layers", "raw", "X"])
def test_counts_are_found_where_they_are(make_adata, place):
    adata = make_adata()
    counts = adata.X.copy()
    if place == "layers":
        adata.layers["counts"] = counts
    if place == "raw":
        adata.raw = adata.copy()
    if place != "X":
        adata.X = counts.log1p()
    assert read_expression(adata).counts_from == {"layers": 'layers["counts"]', "raw": "raw.X", "X": "X"}[place]


def test_refuses_values_that_are_no_counts(make_adata):
    adata = make_adata()
    adata.X = adata.X.log1p()
    with pytest.raises(ValueError, match=r"no counts for the baselines: looked into X"):
        read_expression(adata)
    with pytest.raises(ValueError, match="layer='raw_counts' is not in the file; its layers are: none"):
        read_expression(adata, "raw_counts")


@pytest.mark.parametrize("name", ["pca", "hvg", "harmony", "combat", "random", "shuffled", "label_onehot"])
def test_every_baseline_gives_finite_numbers_twice_the_same(make_adata, name):
    if name in ("harmony", "combat"):
        pytest.importorskip({"harmony": "harmonypy", "combat": "scanpy"}[name])
    adata = make_adata()
    expression = read_expression(adata)
    batch, labels = (adata.obs[column].to_numpy(str) for column in ("donor", "type"))
    first, second = (baseline.embed(name, expression, batch, labels, 3) for _ in range(2))
    assert first.shape[0] == 240
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(("name", "column"), [("harmony", "batch"), ("combat", "batch"), ("label_onehot", "label")])
def test_a_baseline_says_which_column_it_misses(make_adata, name, column):
    pytest.importorskip("harmonypy")
    with pytest.raises(ValueError, match=f"give {column}=COLUMN or leave {name} out"):
        baseline.embed(name, read_expression(make_adata()), None, None, 0)


def test_a_missing_package_says_what_to_install(monkeypatch):
    real = builtins.__import__
    with pytest.raises(ModuleNotFoundError, match="pip install scvi-tools"):
        need("scvi_that_is_not_here", "scvi-tools")
    assert real is builtins.__import__


def test_probes_learn_and_the_majority_does_not():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=150)
    features = constant_features(np.eye(3)[codes] + rng.normal(scale=0.3, size=(150, 3)))
    folds = [(np.arange(100), np.arange(100, 150))]
    found = {model.__name__: cross_predict(features, model, codes, folds) for model in (linear, nearest, majority)}
    right = {name: (calls.codes == codes[calls.rows]).mean() for name, calls in found.items()}
    assert min(right["linear"], right["nearest"]) > 0.9 > right["majority"]
    assert len(set(found["majority"].codes)) == 1


def test_a_class_absent_from_training_does_not_break_a_probe():
    codes = np.array([0, 0, 1, 1, 2])
    calls = cross_predict(constant_features(np.eye(5)), linear, codes, [(np.arange(4), np.array([4]))])
    assert calls.codes[0] in (0, 1)


def test_an_empty_cell_is_no_division_by_zero(make_adata):
    adata = make_adata()
    adata.X = csr_matrix(adata.X.toarray() * (np.arange(240) > 0)[:, None])
    assert np.isfinite(read_expression(adata).scaled()).all()
