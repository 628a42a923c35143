"""Analyses of folders that other projects published: no checkpoint of scfm, and a classifier of theirs."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from published_folders import GENES, make_model, write_dictionaries
from scfm.inference.model import load


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    rate = rng.gamma(1.0, 2.0, (2, len(GENES)))[kind]
    made = anndata.AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)), var=pd.DataFrame(index=GENES))
    made.obs_names = [f"cell{i}" for i in range(60)]
    made.obs["kind"] = pd.Categorical(np.array(["a", "b"])[kind])
    return made


def folder(path, name, **config):
    write_dictionaries(path)
    made = make_model(name, **config)
    made.save_pretrained(path)
    return load(path)


def test_edges_and_labels_of_a_published_folder(cells, tmp_path):
    model = folder(tmp_path / "mlm", "BertForMaskedLM")
    options = {"n_genes": 10, "min_cells": 3, "predicted_cells": 2, "n_targets": 2, "n_steps": 2, "n_permutations": 3}
    edges = model.analyse("network", cells, **options).tables["edges"]
    assert len(edges) == 90 and edges["integrated_gradients"].notna().any()
    result = model.analyse("explain", cells, label="kind", max_cells=6, sizes=[2], n_steps=16)
    assert result.coverage["completeness error"] < 0.1


def test_a_published_classifier_is_explained_as_it_is(cells, tmp_path):
    model = folder(tmp_path / "classes", "BertForSequenceClassification")
    result = model.analyse("explain", cells, label="kind", max_cells=6, sizes=[2], n_steps=16)
    assert result.coverage["classes"] == 3 and "regression" not in result.coverage["labels"]
