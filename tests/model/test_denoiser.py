"""The denoised read-out: its formula, its start, what it refuses, and the way from training to a file."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import scfm
from scfm.batch import Batch
from scfm.data.loader import PackedCells
from scfm.data.module import CellData
from scfm.datasets.synthetic import synthetic_cells
from scfm.inference.predict import embeddings
from scfm.model.backbone import Backbone
from scfm.model.denoiser import Denoiser
from scfm.model.pooling import embed
from scfm.model.start.axes import fit_axes, log_counts
from scfm.model.start.factorization import component_loadings
from scfm.model.start.spectral import Spectral
from scfm.objective.ar import AR
from scfm.objective.mlm import MLM
from scfm.objective.mlm_denoise import MLMDenoise
from scfm.preparation.api import prepare
from scfm.store.token_store import TokenStore
from scfm.tokenizer import MedianTokenizer
from scfm.training.fit import make_spec
from scfm.vocab import Vocab

TOKENIZER = MedianTokenizer(
    name="small", max_length=200, specials={"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}
)
SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 256, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoiser")
    synthetic_cells(n_cells=240, n_genes=80, n_types=4, n_batches=1, seed=0).write_h5ad(folder / "cells.h5ad")
    prepare([folder / "cells.h5ad"], folder / "store", TOKENIZER, keep_counts=True, workers=1)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return TokenStore.open(folder / "store")


def begun(store, **options):
    """A backbone after the spectral start, its data and its spec."""
    data = CellData(store).with_counts()
    torch.manual_seed(0)
    backbone = Backbone(store.vocab, False, **SMALL, embedding_pool="denoised", **options)
    spec = make_spec(data, 32, backbone.layer_length)
    Spectral(factorization="correspondence", min_cells=3, components=12).initialize(backbone, data, spec)
    return backbone, data, spec


def some(store, n=24):
    return PackedCells(store, (), None, counts=True)[(np.arange(n), 3)]


def test_begins_as_a_linear_function_of_log_counts(store):
    backbone, _, _ = begun(store)
    batch, readout = some(store), backbone.readout
    found = embed(backbone.eval(), batch, store.vocab)
    gene = np.isin(batch.ids.numpy(), store.vocab.gene_ids)
    for cell in range(batch.n_cells):
        own = gene & (batch.token_cell.numpy() == cell)
        counts, ids = batch.counts.numpy()[own].astype(float), batch.ids.numpy()[own]
        v = np.log1p(1e4 * counts / counts.sum())
        y = (v[:, None] * readout.axes.numpy()[ids]).sum(0) / v.sum() - readout.center.numpy()
        np.testing.assert_allclose(found[cell].detach(), y @ readout.linear.numpy(), rtol=1e-4, atol=1e-4)


def test_the_axes_are_centered_and_say_something(store):
    backbone, data, _ = begun(store)
    rows = np.sort(data.split.train)
    whole = PackedCells(store, (), None, counts=True)[(rows, 0)]
    values = backbone.readout.project(whole, store.vocab)
    assert float(values.mean(0).abs().max()) < 1e-3
    assert float(values.std(0).min()) > 0.05, "no coordinate is much smaller than the others"


def test_the_linear_part_is_the_ridge_regression_of_one_half_on_the_other():
    """Against numpy on halves whose truth is known: cells of two types, nothing else differs."""
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(size=(2, 30)))
    counts = csr_matrix(rng.poisson(rates[rng.integers(0, 2, 2000)] * 5).astype(np.float32))
    axes = fit_axes(lambda: [counts[:900], counts[900:]], np.eye(30), width=8, components=3, passes=5, seed=0)
    values = log_counts(counts)
    y = (values @ axes.axes) / np.asarray(values.sum(1)) - axes.center
    z = y @ axes.linear
    assert axes.axes.shape == (30, 8)
    assert 0.1 < axes.explained < 1
    # one direction tells the types; shrinking takes the others nearly away
    spread = np.linalg.svd(z - z.mean(0), compute_uv=False)
    before = np.linalg.svd(y - y.mean(0), compute_uv=False)
    assert spread[1] / spread[0] < 0.5 * before[1] / before[0]


def test_components_are_those_of_a_dense_pca():
    rng = np.random.default_rng(1)
    cells = csr_matrix((rng.normal(size=(300, 4)) * [9, 6, 4, 2]) @ rng.normal(size=(4, 20)) + 3)
    found = component_loadings(lambda: [cells[:100], cells[100:]], 20, 4, passes=5, seed=0)
    dense = cells.toarray()
    wanted = np.linalg.svd(dense - dense.mean(0), full_matrices=False)[2][:4].T
    np.testing.assert_allclose(np.abs((found * wanted).sum(0)), 1, atol=1e-4)


def test_blocks_hardly_change_what_a_cell_is_read_as():
    """Blocks draw other halves; the directions that halves agree on are the same."""
    rng = np.random.default_rng(2)
    rates = np.exp(rng.normal(size=(3, 40)))
    counts = csr_matrix(rng.poisson(rates[rng.integers(0, 3, 600)] * 3).astype(np.float32))
    values = log_counts(counts)
    read = []
    for blocks in ([counts], [counts[:250], counts[250:]]):
        found = fit_axes(lambda blocks=blocks: blocks, np.eye(40), width=10, components=4, passes=5, seed=0)
        read.append(((values @ found.axes) / np.asarray(values.sum(1)) - found.center) @ found.linear)
    near = [np.linalg.norm(one[:200, None] - one[None, :200], axis=2).ravel() for one in read]
    assert np.corrcoef(near)[0, 1] > 0.98


def test_layers_read_the_first_tokens_alone_and_the_axes_all(store):
    backbone, _, _ = begun(store, layer_length=8)
    backbone.eval()
    torch.nn.init.normal_(backbone.readout.correction[-1].weight)
    batch = some(store)
    cut = batch.shortened(8)
    assert int(cut.lengths.max()) == 8
    assert batch.longest > 8
    seen = []
    handle = backbone.model.base_model.register_forward_hook(lambda *a: seen.append(a[2].last_hidden_state.shape[1]))
    found = embed(backbone, batch, store.vocab)
    handle.remove()
    assert seen == [cut.n_tokens]
    changed = batch.with_token_field("counts", batch.counts * torch.where(batch.positions >= 8, 3.0, 1.0))
    assert not torch.allclose(embed(backbone, changed, store.vocab), found), "the other tokens count in the axes"


def test_the_loss_begins_at_the_linear_prediction_and_falls_below_it(store):
    backbone, _, spec = begun(store)
    objective = MLMDenoise(spec).train()
    batch = some(store, 60)
    first = objective(backbone, batch)
    torch.testing.assert_close(first["denoise"], first["denoise_linear"])
    torch.testing.assert_close(first["loss"], first["mlm"] + 10 * first["denoise"])
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=2e-3)
    for _ in range(20):
        found = objective(backbone, batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert float(found["denoise"]) < float(found["denoise_linear"])
    assert torch.equal(found["denoise_linear"], first["denoise_linear"]), "axes and W are not trained"
    touched = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"readout.correction.0.weight", "readout.norm.weight"} <= touched


def test_validation_is_that_of_mlm_on_whole_cells(store):
    backbone, _, spec = begun(store)
    objective, plain, batch = MLMDenoise(spec).eval(), MLM(spec).eval(), some(store)
    found = objective(backbone.eval(), batch)
    for name, value in plain(backbone, batch).items():
        assert torch.equal(found[name], value)
    assert torch.equal(objective(backbone, batch)["denoise"], found["denoise"]), "the same halves at every validation"


def test_the_cell_without_a_gene_is_finite(store):
    backbone, _, _ = begun(store)
    ids = torch.tensor([store.vocab.special("cls"), store.vocab.special("eos")])
    batch = Batch(
        ids=ids, positions=torch.arange(2), boundaries=torch.tensor([0, 2], dtype=torch.int32), longest=2,
        index=torch.zeros(1, dtype=torch.int64), token_fields={"counts": torch.zeros(2)},
    )  # fmt: skip
    assert embed(backbone.eval(), batch, store.vocab).isfinite().all()


def test_from_training_to_a_file_and_back(folder, store, tmp_path):
    """A run, its checkpoint, the Python API: the same embedding of the same cells."""
    options = {"embedding_pool": "denoised", "layer_length": 16, **SMALL}
    model = scfm.train(
        store=folder / "store", name="denoised", output=tmp_path / "run", start="spectral",
        **{f"model.{key}": value for key, value in options.items()},
        **{"objective": "mlm_denoise", "start.min_cells": 3, "start.factorization": "correspondence",
           "trainer.max_steps": 4, "trainer.accelerator": "cpu", "data.tokens_per_batch": 2000, "data.val": 0.2},
    )  # fmt: skip
    cells = ad.read_h5ad(folder / "cells.h5ad")
    model.embed(cells)
    data = CellData(store).with_counts()
    backbone = model.module.backbone
    wanted = embeddings(backbone, data, np.arange(len(store)), torch.device("cpu"))
    np.testing.assert_allclose(cells.obsm["X_scfm"], wanted, atol=1e-4)
    assert isinstance(backbone.readout, Denoiser)
    assert float(backbone.readout.axes.abs().sum()) > 0


def test_refusals(store):
    _, _, spec = begun(store)
    with pytest.raises(ValueError, match=r"objective.denoise=0"):
        MLMDenoise(spec, denoise=0)
    with pytest.raises(ValueError, match=r"objective.smallest=0.7"):
        MLMDenoise(spec, smallest=0.7)
    mean = Backbone(store.vocab, False, **SMALL)
    with pytest.raises(ValueError, match=r"trains model.embedding_pool=denoised; this model has 'mean'"):
        MLMDenoise(spec)(mean, some(store))
    with pytest.raises(ValueError, match=r"layer_length=0"):
        Backbone(Vocab(("a", "b"), {"mask": 0}), False, **SMALL, layer_length=0)
    with pytest.raises(ValueError, match=r"start.components=-1"):
        Spectral(components=-1)


def test_cells_without_a_frequent_gene_are_refused(store):
    backbone = Backbone(store.vocab, False, **SMALL, embedding_pool="denoised")
    data = CellData(store).with_counts()
    with pytest.raises(ValueError, match=r"start.min_cells=100000 training cells"):
        Spectral(min_cells=100_000).initialize(backbone, data, make_spec(data, 32))


def test_next_gene_prediction_reads_the_first_tokens_alone_too(store):
    torch.manual_seed(0)
    backbone, batch = Backbone(store.vocab, True, **SMALL, layer_length=8), some(store)
    objective = AR(make_spec(CellData(store), 32, 8)).eval()
    assert torch.equal(objective(backbone, batch)["loss"], objective(backbone, batch.shortened(8))["loss"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": "mlm"}, r"model.embedding_pool=denoised is trained by objective=mlm_denoise"),
        ({"objective": "mlm_denoise", "start": "random"}, r"start=spectral"),
        ({"objective": "mlm_denoise", "model.embedding_pool": "mean"}, r"trains model.embedding_pool=denoised"),
    ],
)
def test_a_run_without_its_parts_is_refused_before_it_begins(folder, tmp_path, changed, message):
    options = {"model.embedding_pool": "denoised", "trainer.max_steps": 1, **changed}
    with pytest.raises(ValueError, match=message):
        scfm.train(store=folder / "store", output=tmp_path / "run", **options)
