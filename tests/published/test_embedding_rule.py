"""Embeddings of any layer and pooling: equal to transformers' own hidden states, and the model is left as it was."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix

import scfm
from published_folders import SYMBOLS
from scfm.inference.embedding_rule import reread
from scfm.inference.load import restore_backbone
from scfm.tokenizer import from_dict
from support import command


@pytest.fixture
def cells():
    """Eighteen cells of random counts."""
    counts = csr_matrix(np.random.default_rng(0).poisson(0.7, (18, len(SYMBOLS))).astype(np.float32))
    return AnnData(counts, obs=pd.DataFrame({"cell_type": ["a", "b", "b"] * 6}), var=pd.DataFrame(index=SYMBOLS))


def _expected(model, ids, layer: int, pool: str) -> np.ndarray:
    found = []
    with torch.inference_mode():
        for row in ids:
            hidden = model(torch.tensor(row.astype(np.int64))[None], output_hidden_states=True).hidden_states[layer][0]
            vectors = {"mean": hidden[1:-1].mean(0), "all": hidden.mean(0), "cls": hidden[0], "first": hidden[0]}
            found.append(vectors[pool].numpy())
    return np.stack(found)


def test_every_layer_and_pooling_is_that_of_transformers(geneformer, cells):
    folder, model = geneformer
    loaded = scfm.load(folder)
    tokenizer = from_dict(loaded.checkpoint.tokenizer)
    encoded = tokenizer.encode(cells.X, tokenizer.harmonize(SYMBOLS).columns)
    ids = [encoded[i] for i in range(18)]
    own = loaded.embed(cells, copy=True)
    assert own.uns["scfm"]["X_scfm"]["embedding_layer"] == -2
    for layer in (0, 1, -1, -4):
        for pool in ("mean", "all", "cls", "first"):
            found = loaded.embed(cells, copy=True, embedding_layer=layer, embedding_pool=pool)
            np.testing.assert_allclose(found.obsm["X_scfm"], _expected(model, ids, layer, pool), atol=1e-5)
            record = found.uns["scfm"]["X_scfm"]
            assert (record["embedding_layer"], record["embedding_pool"]) == (layer, pool)
    np.testing.assert_array_equal(loaded.embed(cells, copy=True).obsm["X_scfm"], own.obsm["X_scfm"])
    table = loaded.gene_table(cells, min_cells=1, embedding_layer=0)
    first = loaded.gene_table(cells, min_cells=1)
    assert not np.allclose(table.X, first.X)


def test_the_command_writes_the_same_and_an_evaluation_reads_it_so(geneformer, cells, tmp_path):
    folder, _ = geneformer
    cells.write_h5ad(tmp_path / "cells.h5ad")
    paths = (f"input={tmp_path / 'cells.h5ad'}", f"init_from={folder}", "trainer.accelerator=cpu")
    command("embed", *paths, f"output={tmp_path / 'out.h5ad'}", "embedding_layer=1", "embedding_pool=mean")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    loaded = scfm.load(folder)
    expected = loaded.embed(cells, copy=True, embedding_layer=1, embedding_pool="mean")
    np.testing.assert_allclose(written.obsm["X_scfm"], expected.obsm["X_scfm"], atol=1e-6)
    again = restore_backbone(reread(loaded.checkpoint, written.uns["scfm"]["X_scfm"]))
    assert (again.embedding_layer, again.embedding_pool) == (1, "mean")
    assert type(again.embedding_layer) is int
    assert reread(loaded.checkpoint, {}) is loaded.checkpoint


def test_a_rule_in_place_of_weighted_pooling_needs_no_counts_behind_tokens(train):
    _, folder = train(
        "trainer.max_steps=1", "model.embedding_pool=weighted", "model.embedding_value=rank", "start=random"
    )
    loaded = scfm.load(folder / "checkpoints/last.ckpt")
    changed = reread(loaded.checkpoint, {"embedding_pool": "mean"})
    assert restore_backbone(changed).readout is None
    assert loaded.backbone.readout is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_layer": 4}, "embedding_layer=4 of a model with 3 layers; expected -4 to 3"),
        ({"embedding_pool": "median"}, "expected one of mean, all, cls, first, weighted"),
        ({"embedding_pool": "weighted"}, "needs a model that was made with it; this one pools by cls"),
    ],
)
def test_refusals(geneformer, cells, options, message):
    loaded = scfm.load(geneformer[0])
    with pytest.raises(ValueError, match=message):
        loaded.embed(cells, **options)
    assert "X_scfm" not in cells.obsm
    assert (loaded.backbone.embedding_layer, loaded.backbone.embedding_pool) == (-2, "cls")


def test_refusals_of_tables_and_analyses(geneformer, cells):
    loaded = scfm.load(geneformer[0])
    with pytest.raises(ValueError, match="give embedding_layer alone"):
        loaded.gene_table(cells, embedding_pool="mean")
    with pytest.raises(ValueError, match="leave embedding_layer and embedding_pool out"):
        loaded.analyse("perturb", cells, genes=["GENE1"], embedding_layer=0)
