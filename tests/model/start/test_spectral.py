"""The spectral start of BERT and GPT-2, tied and untied; of a run, once."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from scfm import checkpoint
from scfm.data.module import CellData
from scfm.model.backbone import Backbone
from scfm.model.start.spectral import Spectral, log_frequencies
from scfm.store.token_store import TokenStore
from scfm.training.fit import make_spec

SIZES = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 64}


@pytest.fixture
def data(made_store):
    return CellData(TokenStore.open(made_store))


def build(data, *, causal=False, **options):
    torch.manual_seed(0)
    return Backbone(data.store.vocab, causal, **SIZES, **options)


def tables(backbone):
    return backbone.model.get_input_embeddings().weight, backbone.decoder


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("factorization", ["ppmi", "correspondence"])
def test_genes_begin_at_one_length_and_all_else_as_usual(data, causal, tied, factorization):
    options = {"tie_word_embeddings": tied}
    backbone, usual = (build(data, causal=causal, options=options) for _ in range(2))
    start = Spectral(factorization=factorization)
    start.initialize(backbone, data, make_spec(data, 32))
    genes, found, _, kind = start.embed_genes(data, 32)
    weight, decoder = tables(backbone)
    assert kind == factorization
    assert (decoder.weight is weight) == tied
    for table in (weight, decoder.weight):
        begun = table[genes, : found.shape[1]]
        torch.testing.assert_close(begun.norm(dim=1), torch.full((len(genes),), 0.08 * 32**0.5))
        assert torch.equal(begun, torch.from_numpy(found))
    others = np.setdiff1d(np.arange(44), genes)
    assert set(range(4)) < set(others), "special tokens keep the usual start"
    assert torch.equal(weight[others], tables(usual)[0][others])
    others = dict(usual.named_parameters())
    skip = ("word_embeddings", "wte", "decoder", "lm_head", "predictions.bias")
    assert all(torch.equal(p, others[n]) for n, p in backbone.named_parameters() if not any(s in n for s in skip))


def test_the_bias_is_the_log_frequency(data):
    backbone, spec = build(data), make_spec(data, 32)
    Spectral().initialize(backbone, data, spec)
    bias = tables(backbone)[1].bias.detach().numpy()
    counts = spec.token_counts[4:] + 0.5
    np.testing.assert_allclose(bias[4:] - bias[4], np.log(counts / counts[0]), atol=1e-5)
    assert bias.mean() == pytest.approx(0, abs=1e-5)
    assert bias[:4].max() <= bias[4:].min(), "what is never predicted begins as unseen"
    assert log_frequencies(spec, causal=True)[3] > log_frequencies(spec, causal=False)[3], "eos is a target of AR"


def test_rare_genes_keep_the_usual_start(data):
    cells = np.bincount(data.store.gather(data.split.train).values, minlength=44)
    least = int(np.sort(cells[4:])[10]) + 1
    backbone = build(data)
    Spectral(min_cells=least).initialize(backbone, data, make_spec(data, 32))
    assert 0 < (cells[4:] < least).sum() < 40
    changed = (tables(backbone)[0] != tables(build(data))[0]).any(1).numpy()
    np.testing.assert_array_equal(changed, (cells >= least) & (np.arange(44) >= 4))


def test_only_first_tokens_and_training_cells_count(data, monkeypatch):
    genes, found, *_ = Spectral(max_length=8).embed_genes(data, 16)
    seen = []
    gather = TokenStore.gather
    monkeypatch.setattr(TokenStore, "gather", lambda s, r, n=None, **k: (seen.append((r, n)), gather(s, r, n, **k))[1])
    again = Spectral(max_length=8).embed_genes(data, 16)
    np.testing.assert_array_equal(again[1], found)
    assert all(n == 8 and np.isin(rows, data.split.train).all() for rows, n in seen)
    assert 0 < len(genes) < len(Spectral().embed_genes(data, 16)[0])


def test_a_sample_of_cells_is_drawn_by_the_seed(data):
    first, second, other = (Spectral(max_cells=100, seed=seed).embed_genes(data, 16)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_too_many_genes_for_ppmi(data, caplog):
    n = len(Spectral().embed_genes(data, 16)[0])
    _, found, _, kind = Spectral(max_genes=n - 1).embed_genes(data, 16)
    assert kind == "correspondence"
    assert f"{n} genes are more than start.max_genes={n - 1}" in caplog.text
    np.testing.assert_array_equal(found, Spectral(factorization="correspondence").embed_genes(data, 16)[1])


def test_no_gene_is_frequent_enough(data, caplog):
    backbone = build(data)
    Spectral(min_cells=10_000).initialize(backbone, data, make_spec(data, 32))
    assert torch.equal(tables(backbone)[0], tables(build(data))[0])
    assert "all keep the usual start" in caplog.text


@pytest.mark.parametrize("options", [{"max_length": 0}, {"min_cells": 0}, {"max_cells": 0}, {"passes": 0}])
def test_refused_numbers(options):
    with pytest.raises(ValueError, match=r"at least 1"):
        Spectral(**options)


def test_a_refused_length():
    with pytest.raises(ValueError, match=r"start.length=0.0"):
        Spectral(length=0.0)


ONE = ("trainer.max_steps=1", "trainer.log_every_n_steps=1", "trainer.precision=32-true")


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_a_run_begins_better_than_a_uniform_guess_and_bit_by_bit_again(train, objective):
    first = {}
    for output, start in (("a", "spectral"), ("b", "spectral"), ("c", "random")):
        _, folder = train(f"objective={objective}", f"start={start}", *ONE, output=output)
        first[output] = pd.read_csv(folder / "metrics.csv")["train/loss"].dropna().iloc[0]
    assert first["a"] == first["b"]
    if objective == "ar":  # GPT-2's output has no bias that begins at the frequencies
        assert first["a"] != first["c"]
    else:
        assert first["a"] < first["c"]


def test_a_resumed_run_does_not_start_again(train, caplog, monkeypatch):
    train(*ONE)
    calls = []
    monkeypatch.setattr(Spectral, "initialize", lambda *args: calls.append(args))
    with caplog.at_level(logging.INFO):
        _, folder = train(*ONE, "trainer.max_steps=2", "ckpt_path=last")
    assert not calls
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt").step == 2
