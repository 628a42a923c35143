"""Published classifiers of genes: probabilities by gene are the means of what transformers gives each token."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

import scfm
from published_folders import SYMBOLS, make_model, write_dictionaries
from scfm.tokenizer import from_dict


@pytest.fixture
def classifier(tmp_path):
    """(folder, model) of a tiny classifier of genes into three classes."""
    folder = tmp_path / "model"
    made = make_model("BertForTokenClassification")
    made.save_pretrained(folder)
    write_dictionaries(tmp_path / "geneformer")
    return folder, made


@pytest.fixture
def cells():
    """Twelve cells of two types."""
    counts = csr_matrix(np.random.default_rng(0).poisson(0.7, (12, len(SYMBOLS))).astype(np.float32))
    return AnnData(counts, obs=pd.DataFrame({"cell_type": ["a", "b", "b"] * 4}), var=pd.DataFrame(index=SYMBOLS))


def _expected(model, ids, names) -> pd.DataFrame:
    rows = []
    with torch.inference_mode():
        for cell in ids:
            row = torch.tensor(cell.astype(np.int64))
            found = torch.softmax(model(row[None]).logits[0].double(), dim=1).numpy()
            rows += [
                {"gene": int(token), **dict(zip(names, p, strict=True))} for token, p in zip(row, found, strict=True)
            ]
    return pd.DataFrame(rows).groupby("gene").mean()


def test_probabilities_are_means_over_cells_of_those_of_transformers(classifier, cells, tmp_path):
    folder, model = classifier
    (tmp_path / "classes.pkl").write_bytes(pickle.dumps({0: "sensitive", 1: "tolerant", 2: "other"}))
    loaded = scfm.load(folder, labels=str(tmp_path / "classes.pkl"))
    names = [f"probability_{name}" for name in ("sensitive", "tolerant", "other")]
    table = loaded.gene_table(cells, min_cells=1)
    assert names == [column for column in table.obs if column.startswith("probability_")]
    tokenizer = from_dict(loaded.checkpoint.tokenizer)
    ids = tokenizer.encode(cells.X, tokenizer.harmonize(SYMBOLS).columns)
    expected = _expected(model, [ids[i] for i in range(12)], names)
    for gene, row in table.obs.iterrows():
        np.testing.assert_allclose(row[names].astype(float), expected.loc[loaded.vocab.ids[gene]], atol=1e-5)
    by_type = loaded.gene_table(cells, by="cell_type", min_cells=1).obs
    np.testing.assert_allclose(by_type[names].sum(axis=1).astype(float), 1, atol=1e-6)
    both = by_type[by_type["gene"] == by_type["gene"].iloc[0]]
    weighted = np.average(both[names].astype(float), axis=0, weights=both["n_cells"])
    np.testing.assert_allclose(weighted, expected.loc[loaded.vocab.ids[both["gene"].iloc[0]]], atol=1e-5)


def test_it_is_kept_by_a_checkpoint_and_named_by_number_without_names(classifier, cells, tmp_path):
    loaded = scfm.load(classifier[0])
    assert not loaded.head.hooks
    again = scfm.load(loaded.save(tmp_path / "kept.ckpt"))
    first, second = (model.gene_table(cells, min_cells=1).obs for model in (loaded, again))
    pd.testing.assert_frame_equal(first, second)
    assert "probability_LABEL_2" in first


def test_a_head_of_another_shape_and_names_that_do_not_fit_are_refused(classifier, tmp_path):
    folder, _ = classifier
    (tmp_path / "two.pkl").write_bytes(pickle.dumps({0: "a", 1: "b"}))
    with pytest.raises(ValueError, match="the model has 3"):
        scfm.load(folder, labels=str(tmp_path / "two.pkl"))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "classifier.bias": weights["classifier.bias"][:2].clone()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="is not that of BertForTokenClassification"):
        scfm.load(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForTokenClassification"]
