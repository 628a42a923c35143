"""Analyses of folders that other projects published: no checkpoint of scfm, and a classifier of theirs."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from published_folders import GENES, make_model, write_dictionaries
from scfm.inference.batches import trained_tokenizer
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


def test_deletion_in_a_published_folder_is_that_of_transformers_own_class(cells, tmp_path):
    model = folder(tmp_path / "mlm", "BertForMaskedLM")
    theirs = make_model("BertForMaskedLM")
    layer, pool = model.backbone.embedding_layer, model.backbone.embedding_pool
    few = cells[:3]
    table = model.analyse("perturb", few, permutations=0, random_weights=False, min_cells=1).tables["cells"]
    tokenizer = trained_tokenizer(model.checkpoint)
    lists = tokenizer.encode(few.X, tokenizer.harmonize(GENES).columns)

    @torch.no_grad()
    def embed(ids):
        states = theirs(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
        states = states.hidden_states[layer][0].double().numpy()
        return states[0] if pool == "cls" else states[1:-1].mean(axis=0)

    for _, row in table.iterrows():
        whole = lists[row["row"]]
        left = whole[whole != model.vocab.ids[row["gene"]]]
        one, two = embed(whole), embed(left)
        assert row["cosine"] == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two), abs=1e-5)
    assert len(table) == sum(len(ids) - 2 for ids in lists)


def test_genes_and_pairs_of_a_published_folder(cells, tmp_path):
    model = folder(tmp_path / "mlm", "BertForMaskedLM")
    table = pd.DataFrame({"gene": GENES, "class": ["a", "b"] * 20})
    table.to_csv(tmp_path / "classes.tsv", sep="\t", index=False)
    found = model.analyse("genes", cells, labels=str(tmp_path / "classes.tsv"), folds=2, draws=2, occurrences=1)
    assert len(found.tables["genes"]) == 40
    pd.DataFrame({"ligand": GENES[:3], "receptor": GENES[3:6]}).to_csv(tmp_path / "pairs.csv", index=False)
    options = {"pairs": str(tmp_path / "pairs.csv"), "label": "kind", "n_permutations": 9}
    assert len(model.analyse("communication", cells, **options).tables["pairs"])


def test_a_published_classifier_is_explained_as_it_is(cells, tmp_path):
    model = folder(tmp_path / "classes", "BertForSequenceClassification")
    result = model.analyse("explain", cells, label="kind", max_cells=6, sizes=[2], n_steps=16)
    assert result.coverage["classes"] == 3 and "regression" not in result.coverage["labels"]
