"""Weighted pooling against its formula, and the model that reads cells by it from training to a file."""

import anndata as ad
import numpy as np
import pytest
import torch

import scfm
from scfm.batch import Batch
from scfm.data.module import CellData
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.predict import embeddings
from scfm.model.backbone import Backbone
from scfm.model.pooling import embed
from scfm.model.readout import Readout, reads_counts
from scfm.model.start.spectral import Spectral
from scfm.preparation.api import prepare
from scfm.store.token_store import TokenStore
from scfm.tokenizer import MedianTokenizer
from scfm.training.fit import make_spec
from scfm.vocab import Vocab

TOKENIZER = MedianTokenizer(
    name="small", max_length=200, specials={"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
)
SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 256, "dropout": 0.0}


def make_vocab(n: int) -> Vocab:
    return Vocab(tuple(f"g{i}" for i in range(n)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


def batch_of(counts=True) -> Batch:
    """Two cells, <cls> g g g <eos> and <cls> g <eos>."""
    ids = torch.tensor([2, 10, 11, 12, 3, 2, 11, 3])
    values = {"counts": torch.tensor([0.0, 6, 3, 1, 0, 0, 5, 0])} if counts else {}
    return Batch(
        ids=ids,
        positions=torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]),
        boundaries=torch.tensor([0, 5, 8], dtype=torch.int32),
        longest=5,
        index=torch.arange(2),
        token_fields=values,
    )


@pytest.mark.parametrize("value", ["counts", "rank"])
def test_equals_its_formula(value):
    vocab, batch = make_vocab(20), batch_of()
    readout = Readout(20, value, input_weight=0.5)
    generator = torch.Generator().manual_seed(0)
    readout.token_weight.copy_(torch.rand(20, generator=generator))
    inputs, hidden = torch.randn(8, 4, generator=generator), torch.randn(8, 4, generator=generator)
    wanted = []
    for places, n in (((1, 2, 3), 5), ((6,), 3)):
        counts = batch.counts[list(places)].numpy()
        v = (
            np.log1p(1e4 * counts / counts.sum())
            if value == "counts"
            else 1 - batch.positions[list(places)].numpy() / n
        )
        unit = [(hidden[t] / hidden[t].norm() + 0.5 * inputs[t] / inputs[t].norm()).numpy() for t in places]
        w = readout.token_weight[batch.ids[list(places)]].numpy()
        wanted.append(((v * w)[:, None] * unit).sum(0) / v.sum())
    np.testing.assert_allclose(readout(inputs, hidden, batch, vocab), np.stack(wanted), rtol=1e-5)


def test_special_tokens_and_empty_cells_add_nothing():
    vocab, batch = make_vocab(20), batch_of()
    readout = Readout(20, "rank", 1.0)
    vectors = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    changed = vectors.clone()
    changed[[0, 4, 5, 7]] = 9.0
    assert torch.equal(readout(vectors, vectors, batch, vocab), readout(changed, changed, batch, vocab))
    bare = batch.select_tokens(torch.tensor([0, 1, 2, 3, 4]))
    found = readout(vectors[:5], vectors[:5], bare, vocab)
    assert found.isfinite().all()
    assert not found[1].any()


def test_a_gene_counts_as_much_as_it_is_present():
    """The path of integrated gradients: at presence 1 the cell as it is, at 0 as if the gene added nothing."""
    vocab, batch = make_vocab(20), batch_of()
    readout = Readout(20, "counts", 1.0)
    vectors = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    whole = readout(vectors, vectors, batch, vocab)
    ones = torch.ones(8)
    assert torch.equal(readout(vectors, vectors, batch.with_token_field("presence", ones), vocab), whole)
    without = readout(
        vectors, vectors, batch.with_token_field("presence", ones.index_fill(0, torch.tensor(1), 0)), vocab
    )
    half = readout(
        vectors, vectors, batch.with_token_field("presence", ones.index_fill(0, torch.tensor(1), 0.5)), vocab
    )
    torch.testing.assert_close(half, (whole + without) / 2)
    assert torch.equal(without[1], whole[1])
    assert not torch.allclose(without[0], whole[0])


def test_refusals():
    with pytest.raises(ValueError, match=r"embedding_value='mean'; expected counts or rank"):
        Readout(20, "mean", 1.0)
    with pytest.raises(ValueError, match=r"embedding_input=-1"):
        Readout(20, "rank", -1)
    with pytest.raises(ValueError, match=r"keep_counts=true"):
        Readout(20, "counts", 1.0).values(batch_of(counts=False), make_vocab(20))
    with pytest.raises(ValueError, match=r"embedding_length=0; expected 1 to"):
        Backbone(make_vocab(20), False, **SMALL, embedding_length=0)
    with pytest.raises(ValueError, match=r"embedding_pool='median'"):
        Backbone(make_vocab(20), False, **SMALL, embedding_pool="median")


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted")
    synthetic_cells(n_cells=160, n_genes=80, n_types=4, n_batches=2, seed=0).write_h5ad(folder / "cells.h5ad")
    prepare([folder / "cells.h5ad"], folder / "store", TOKENIZER, keep_counts=True, workers=1)
    return folder


def test_the_spectral_start_reads_cells_as_correspondence_analysis_does(counted):
    """With states that count for nothing, z is the mean of the genes' principal coordinates, weighed by expression."""
    data = CellData(TokenStore.open(counted / "store")).with_counts()
    backbone = Backbone(data.store.vocab, False, **SMALL, embedding_pool="weighted", embedding_input=1e6)
    start = Spectral(factorization="correspondence", min_cells=2)
    start.initialize(backbone, data, make_spec(data, backbone.width))
    genes, unit, distance, _ = start.embed_genes(data, backbone.width)
    rows = np.arange(20)
    tokens, counts = data.store.gather(rows), data.store.counts(rows)
    coordinates = np.zeros((len(data.store.vocab), unit.shape[1]))
    coordinates[genes] = distance[:, None] * unit / np.linalg.norm(unit, axis=1, keepdims=True)
    is_gene = np.isin(tokens.values, data.store.vocab.gene_ids)
    wanted = []
    for row in rows:
        part = slice(tokens.offsets[row], tokens.offsets[row + 1])
        x = counts[part] * is_gene[part]
        v = np.log1p(1e4 * x / x.sum())
        wanted.append(v @ coordinates[tokens.values[part]] / v.sum())
    found = embeddings(backbone, data, rows, torch.device("cpu")) / 1e6
    np.testing.assert_allclose(found[:, : unit.shape[1]], np.stack(wanted), rtol=1e-3, atol=1e-4)


def test_from_training_to_cells_in_memory(counted, tmp_path):
    """Objective, validation, checkpoint and API read the counts; the file is read as the store was."""
    model = scfm.train(
        store=str(counted / "store"),
        output=str(tmp_path / "run"),
        objective="mlm_contrast",
        **{
            "model.embedding_pool": "weighted",
            "model.embedding_length": 40,
            "start.factorization": "correspondence",
            "start.min_cells": 2,
            "trainer.max_steps": 3,
            "data.max_length": 30,
            "data.tokens_per_batch": 512,
        },
    )
    assert reads_counts(model.module.backbone)
    cells = ad.read_h5ad(counted / "cells.h5ad")
    model.embed(cells)
    data = CellData(TokenStore.open(counted / "store"), max_length=40)
    wanted = embeddings(model.module.backbone, data, np.arange(160), torch.device("cpu"))
    np.testing.assert_allclose(cells.obsm["X_scfm"], wanted, rtol=1e-4, atol=1e-5)


def test_a_cell_does_not_depend_on_its_batch(counted):
    data = CellData(TokenStore.open(counted / "store")).with_counts()
    backbone = Backbone(data.store.vocab, False, **SMALL, embedding_pool="weighted").eval()
    batch = next(iter(data.loader(np.arange(12), alone=True)))
    with torch.inference_mode():
        whole = embed(backbone, batch, data.store.vocab)
        parts = [embed(backbone, part, data.store.vocab) for part in batch.split(3)]
    torch.testing.assert_close(torch.cat(parts), whole)
