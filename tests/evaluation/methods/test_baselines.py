"""Baselines and the expression they stand on; what is fitted must not know the test cells."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.methods import baselines as baseline
from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.methods.probes import constant_features, cross_predict, linear, majority, nearest
from scfm.head.variable_genes import batch_variable_genes, variable_genes
from scfm.imports.optional import need


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


def test_genes_that_vary_inside_batches_equal_scanpy(make_adata):
    scanpy = pytest.importorskip("scanpy")
    adata = make_adata(n_genes=400)
    adata.X = csr_matrix(
        adata.X.toarray() * ~((adata.obs["donor"] == "d0").to_numpy()[:, None] & (np.arange(400) < 30))
    )
    expression = read_expression(adata)
    theirs = adata.copy()
    scanpy.pp.normalize_total(theirs, target_sum=1e4)
    scanpy.pp.log1p(theirs)
    scanpy.pp.highly_variable_genes(theirs, n_top_genes=100, batch_key="donor")
    found = batch_variable_genes(expression.values, adata.obs["donor"].to_numpy(str), 100)
    np.testing.assert_array_equal(found, np.flatnonzero(theirs.var["highly_variable"]))


def test_a_gene_that_differs_between_batches_alone_is_not_variable_inside_them():
    rng = np.random.default_rng(0)
    batch = np.arange(300) % 2
    rate = np.tile(np.linspace(1, 60, 400), (300, 1))
    rate[:, 200] = np.where(batch == 1, 58, 2)  # the batch effect
    rate[:, 201] = np.where(rng.random(300) < 0.5, 50, 10)  # a type in both
    values = read_expression(AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))).values
    assert 200 in variable_genes(values, 2)
    found = batch_variable_genes(values, batch, 2)
    assert 201 in found and 200 not in found
    np.testing.assert_array_equal(batch_variable_genes(values, np.zeros(300), 9), variable_genes(values, 9))


def test_diffusion_components_are_those_of_the_random_walk():
    """Two cliques joined by one weak edge: the first component tells them apart; against a dense eigensolver."""
    weight = np.zeros((12, 12))
    weight[:6, :6] = weight[6:, 6:] = 1 - np.eye(6)
    weight[5, 6] = weight[6, 5] = 0.1
    found = baseline.diffusion_components(csr_matrix(weight), 3, 0)
    assert len(set(np.sign(found[:6, 0]))) == len(set(np.sign(found[6:, 0]))) == 1
    assert np.sign(found[0, 0]) != np.sign(found[-1, 0])
    walk = weight / weight.sum(axis=1, keepdims=True)
    values = np.sort(np.linalg.eigvals(walk).real)[::-1]
    np.testing.assert_allclose(walk @ found[:, 0], values[1] * found[:, 0], atol=1e-8)


def test_a_package_that_is_not_here_is_a_note_and_no_end(make_adata, monkeypatch):
    absent = replace(baseline.BASELINES["bbknn"], package="no_such_package")
    monkeypatch.setitem(baseline.BASELINES, "bbknn", absent)
    options = {"batch": "donor", "controls": False, "baselines": ("pca", "bbknn")}
    result = evaluate(make_adata(), **options)
    assert "BBKNN is left out: it needs pip install bbknn." in result.notes
    assert "BBKNN" not in result.scores["integration"].index


@pytest.mark.parametrize("name", [name for name in baseline.BASELINES if name not in ("scvi", "scanvi")])
def test_every_baseline_gives_finite_numbers_twice_the_same(make_adata, name):
    if not baseline.BASELINES[name].installed:
        pytest.skip(f"{baseline.BASELINES[name].package} is not installed")
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
