"""The table of contextual gene vectors: equal to means and deviations over transformers' own hidden states."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix

import scfm
from published_folders import SYMBOLS
from scfm.tokenizer import from_dict
from support import command


def test_means_and_deviations_by_group_are_those_of_transformers(geneformer, tmp_path):
    folder, model = geneformer
    loaded = scfm.load(folder)
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(0.7, (18, len(SYMBOLS))).astype(np.float32))
    adata = AnnData(counts, obs=pd.DataFrame({"cell_type": ["a", "b", "b"] * 6}), var=pd.DataFrame(index=SYMBOLS))
    table = loaded.gene_table(adata, by="cell_type", min_cells=3)
    tokenizer = from_dict(loaded.checkpoint.tokenizer)
    ids = tokenizer.encode(counts, tokenizer.harmonize(SYMBOLS).columns)
    states, ranks = {}, {}
    with torch.inference_mode():
        for i, kind in enumerate(adata.obs["cell_type"]):
            row = torch.tensor(ids[i].astype(np.int64))
            hidden = model(row[None], output_hidden_states=True).hidden_states[-2][0].double().numpy()
            for place, token in enumerate(row.tolist()):
                states.setdefault((loaded.vocab.tokens[token], kind), []).append(hidden[place])
                ranks.setdefault((loaded.vocab.tokens[token], kind), []).append(place - 1)
    wanted = {key for key, rows in states.items() if len(rows) >= 3 and key[0].startswith("ENSG")}
    assert set(zip(table.obs["gene"], table.obs["cell_type"], strict=True)) == wanted
    for i, (gene, kind) in enumerate(zip(table.obs["gene"], table.obs["cell_type"], strict=True)):
        rows = np.stack(states[gene, kind])
        np.testing.assert_allclose(table.X[i], rows.mean(0), atol=1e-5)
        np.testing.assert_allclose(table.layers["sd"][i], rows.std(0, ddof=1), atol=1e-5)
        assert table.obs["n_cells"].iloc[i] == len(rows)
        assert table.obs["mean_rank"].iloc[i] == pytest.approx(np.mean(ranks[gene, kind]))
    static = model.bert.embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(table.obsm["X_static"][0], static[loaded.vocab.ids[table.obs["gene"].iloc[0]]])
    assert table.obsm["X_pca"].shape == (len(table), 17) and np.isfinite(table.obsm["X_pca"]).all()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    paths = (f"input={tmp_path / 'cells.h5ad'}", f"output={tmp_path / 'genes.h5ad'}", f"init_from={folder}")
    command("embed", *paths, "what=gene", "by=cell_type", "min_cells=3")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "genes.h5ad").X, table.X)
    with pytest.raises(ValueError, match="expected cell, gene or state"):
        command("embed", *paths, "what=donor", "overwrite=true")
    with pytest.raises(ValueError, match="no obs column"):
        loaded.gene_table(adata, by="nothing")
    with pytest.raises(ValueError, match="lower min_cells"):
        loaded.gene_table(adata, min_cells=100)
