"""Vectors of states: means, geometric medians and spreads over cells, beside simple vectors."""

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

import scfm
from published_folders import SYMBOLS, make_model, write_dictionaries
from scfm.inference.state_table import geometric_median
from support import command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model with random weights."""
    folder = tmp_path_factory.mktemp("states")
    make_model("BertForMaskedLM").save_pretrained(folder / "model")
    write_dictionaries(folder / "geneformer")
    return scfm.load(folder / "model")


@pytest.fixture
def cells():
    """Twenty-one cells of three states and three donors, the last without a state."""
    counts = np.random.default_rng(1).poisson(0.8, (21, len(SYMBOLS))).astype(np.float32)
    counts[3] = 0
    obs = pd.DataFrame({"state": ["a"] * 8 + ["b"] * 9 + ["c"] * 3 + [None], "donor": [f"d{i % 3}" for i in range(21)]})
    return AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=SYMBOLS))


def test_vectors_are_those_of_the_embedded_cells(model, cells):
    table = model.state_table(cells, by="state", donor="donor", min_cells=4)
    assert list(table.obs_names) == list(table.obs["state"]) == ["a", "b"]
    assert list(table.obs["n_cells"]) == [7, 9]  # a cell without a gene has no embedding
    assert list(table.obs["n_donors"]) == [3, 3]
    embedded = model.embed(cells, copy=True).obsm["X_scfm"].astype(np.float64)
    static = model.backbone.model.get_input_embeddings().weight.detach().numpy()
    places = model.checkpoint.tokenizer["vocab"]["tokens"]
    for i, rows in enumerate(([0, 1, 2, 4, 5, 6, 7], range(8, 17))):
        points = embedded[list(rows)]
        np.testing.assert_allclose(table.X[i], points.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(table.layers["sd"][i], points.std(axis=0, ddof=1), atol=1e-6)
        np.testing.assert_allclose(table.layers["median"][i], geometric_median(points), atol=1e-6)
        genes = [np.flatnonzero(cells.X[row].toarray()[0]) for row in rows]
        means = [static[[places.index(f"ENSG{g + 1:011d}") for g in found]].mean(axis=0) for found in genes]
        np.testing.assert_allclose(table.obsm["X_static"][i], np.mean(means, axis=0), atol=1e-5)
    assert table.obsm["X_pca"].shape == (2, 20)


def test_the_command_writes_the_same(model, cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command(
        "embed", f"init_from={model.checkpoint.path}", f"input={tmp_path / 'cells.h5ad'}", "what=state", "by=state",
        f"output={tmp_path / 'states.h5ad'}", "min_cells=3", "embedding_pool=mean", "trainer.accelerator=cpu",
    )  # fmt: skip
    written = anndata.read_h5ad(tmp_path / "states.h5ad")
    expected = model.state_table(cells, by="state", min_cells=3, embedding_pool="mean")
    assert list(written.obs_names) == ["a", "b", "c"]
    np.testing.assert_allclose(written.X, expected.X, atol=1e-6)
    np.testing.assert_allclose(written.layers["median"], expected.layers["median"], atol=1e-6)


def test_refusals(model, cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for options, message in (
        ({"by": "kind"}, "by='kind' is no obs column; the file has state, donor"),
        ({"by": "state", "donor": "person"}, "donor='person' is no obs column"),
        ({"by": "state", "min_cells": 100}, "no state of 'state' has 100 cells"),
    ):
        with pytest.raises(ValueError, match=message):
            model.state_table(cells, **options)
    with pytest.raises(ValueError, match="what=state needs by=COLUMN"):
        command(
            "embed", f"init_from={model.checkpoint.path}", f"input={tmp_path / 'cells.h5ad'}", "what=state",
            f"output={tmp_path / 'states.h5ad'}",
        )  # fmt: skip


class TestGeometricMedian:
    def test_it_has_the_smallest_sum_of_distances(self):
        rng = np.random.default_rng(0)
        for n, width in ((3, 2), (10, 3), (25, 5)):
            points = rng.normal(size=(n, width)) * rng.gamma(1, 2, (n, 1))
            found = geometric_median(points)

            def cost(place, points=points):
                return np.linalg.norm(points - place, axis=1).sum()

            best = minimize(
                cost, points.mean(axis=0), method="Nelder-Mead", options={"maxiter": 20_000, "fatol": 1e-12}
            )
            assert cost(found) <= best.fun + 1e-8

    def test_it_moves_and_turns_with_the_points(self):
        rng = np.random.default_rng(1)
        points = rng.normal(size=(12, 4))
        turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        moved = geometric_median(points @ turn * 3 + 5)
        np.testing.assert_allclose(moved, geometric_median(points) @ turn * 3 + 5, atol=1e-7)

    def test_an_outlier_moves_the_mean_and_hardly_the_median(self):
        points = np.random.default_rng(2).normal(size=(50, 3))
        far = np.vstack([points, [[1e6, 1e6, 1e6]]])
        assert np.linalg.norm(geometric_median(far) - geometric_median(points)) < 0.2
        assert np.linalg.norm(far.mean(axis=0) - points.mean(axis=0)) > 1e4

    @pytest.mark.parametrize("points", [[[1.0, 2.0]], [[1.0, 2.0]] * 4, [[0.0], [1.0], [10.0]]])
    def test_one_point_equal_points_and_a_line(self, points):
        expected = np.median(points, axis=0)
        np.testing.assert_allclose(geometric_median(np.array(points)), expected, atol=1e-8)

    def test_it_leaves_a_point_that_is_not_the_median(self):
        square = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [8.0, 0.0], [-8.0, 0.0]])
        shifted = np.vstack([square, square.mean(axis=0)])  # the mean, where the search begins, is a point
        np.testing.assert_allclose(geometric_median(shifted), [0, 0], atol=1e-8)
