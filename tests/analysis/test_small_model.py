"""The model that comes with the package is asked: its layers read the first 128 tokens, its embedding reads counts."""

import anndata
import numpy as np
import pandas as pd
import pytest

from scfm.datasets.demo_cells import demo_file
from scfm.inference.model import load


@pytest.fixture(scope="module")
def small():
    return load("scfm://small")


@pytest.fixture(scope="module")
def cells():
    whole = anndata.read_h5ad(demo_file())
    return whole[whole.obs["cell_type"].isin(["B cells", "Monocytes"])][::6].copy()


def test_labels_are_explained_by_all_genes_and_rollout_by_those_that_the_layers_read(small, cells):
    found = small.analyse("explain", cells, label="cell_type", max_cells=6, n_steps=8, n_draws=1, sizes=[5])
    table = found.tables["attributions"]
    low = table["rank"] > 128
    assert low.mean() > 0.4 and (table.loc[low, "rollout"] == 0).all()
    assert (table.loc[low, "integrated_gradients"] != 0).mean() > 0.9
    total = table.groupby("row")["rollout"].sum()
    assert total.between(0.5, 1 + 1e-5).all()  # the rest reaches the embedding from special tokens
    assert found.coverage["completeness error"] < 0.1
    assert np.isfinite(found.tables["deletion"]["fall"]).all()


def test_edges_are_of_genes_that_the_layers_read(small, cells):
    options = {"n_genes": 12, "min_cells": 5, "max_cells": 30, "n_permutations": 3, "predicted_cells": 2,
               "n_targets": 2, "n_steps": 2}  # fmt: skip
    edges = small.analyse("network", cells, **options).tables["edges"]
    assert len(edges) == 12 * 11 and edges["attention"].notna().any() and edges["integrated_gradients"].notna().any()


def test_genes_have_states_where_the_layers_read_them(small, cells, tmp_path):
    means = np.asarray(cells.X.mean(axis=0)).ravel()
    names = cells.var_names[np.argsort(-means, kind="stable")[:40]]
    table = pd.DataFrame({"gene": names, "class": np.where(np.arange(40) % 2, "odd", "even")})
    table.to_csv(tmp_path / "classes.tsv", sep="\t", index=False)
    found = small.analyse("genes", cells[::3], labels=str(tmp_path / "classes.tsv"), folds=2, draws=2, occurrences=1,
                          min_cells=1, random_weights=False)  # fmt: skip
    genes = found.tables["genes"]
    assert 10 < len(genes) <= 40 and np.isfinite(genes["contextual"]).all()


def test_a_table_of_genes_is_of_those_that_the_layers_read(small, cells):
    few = cells[:3]
    known = small.gene_embeddings(few).notna().all(axis=1).sum()
    assert 127 <= known <= 3 * 127
