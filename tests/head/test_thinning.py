"""Thinned views are what the tokenizer would have made of fewer counts."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm.batch import Batch
from scfm.config import build
from scfm.data.loader import PackedCells
from scfm.datasets.synthetic import synthetic_cells
from scfm.head.views import ViewOptions, Views, batch_generator
from scfm.preparation.api import prepare
from scfm.store.token_store import TokenStore
from scfm.tokenizer import from_dict
from scfm.training.fit import gene_scale


@pytest.fixture(scope="module", params=["geneformer_v2", "iseeek"])
def store(request, tmp_path_factory):
    from hydra import compose, initialize_config_dir

    from scfm.cli import CONFIGS

    folder = tmp_path_factory.mktemp("counted")
    synthetic_cells(n_cells=40, n_genes=120, n_types=2, n_batches=2, seed=0).write_h5ad(folder / "cells.h5ad")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tokenizer = build(compose("prepare", [f"tokenizer={request.param}", "input=x", "output=y"]).tokenizer)
    return prepare(
        [folder / "cells.h5ad"], folder / "store", tokenizer, obs=[], group=None, keep_counts=True, workers=1
    )


def batch_of(store: TokenStore, max_length: int | None = None) -> Batch:
    return PackedCells(store, (), max_length, counts=True)[(np.arange(len(store)), 7)]


def as_matrix(batch: Batch, n_tokens: int) -> csr_matrix:
    assert batch.counts is not None
    return csr_matrix((batch.counts.numpy(), (batch.token_cell.numpy(), batch.ids.numpy())), (batch.n_cells, n_tokens))


def assert_same_ranks(view: Batch, ids: np.ndarray, store: TokenStore) -> None:
    """The same genes in the same order; those that only rounding orders may stand in either."""
    value = as_matrix(view, len(store.vocab)).toarray() / gene_scale(store)
    one, two = (value[view.token_cell, tokens] for tokens in (view.ids, ids))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert (view.ids.numpy() == ids).mean() > 0.98
    if store.tokenizer.get("medians") is None:
        np.testing.assert_array_equal(view.ids, ids)


def test_nothing_thinned_is_the_cell_itself(store):
    batch = batch_of(store)
    view = Views(ViewOptions(min_depth=1 - 1e-9), store.vocab, gene_scale(store)).thin_counts(
        batch, batch_generator(batch)
    )
    assert_same_ranks(view, batch.ids.numpy(), store)
    assert torch.equal(view.boundaries, batch.boundaries)


def test_a_thinned_cell_is_ranked_as_the_tokenizer_would(store):
    batch = batch_of(store)
    view = Views(ViewOptions(min_depth=0.2), store.vocab, gene_scale(store)).thin_counts(batch, batch_generator(batch))
    assert view.n_tokens < batch.n_tokens
    counts = as_matrix(view, len(store.vocab))
    counts.eliminate_zeros()
    again = from_dict(store.tokenizer).encode(counts, np.arange(len(store.vocab), dtype=np.int32))
    assert_same_ranks(view, again.values, store)
    before, after = (as_matrix(b, len(store.vocab)).toarray() for b in (batch, view))
    assert (after <= before).all()
    assert 0.5 < after.sum() / before.sum() < 0.7


def test_counts_follow_the_tokens_when_cells_are_cut(store):
    whole, cut = batch_of(store), batch_of(store, 20)
    full = as_matrix(whole, len(store.vocab)).toarray()
    np.testing.assert_array_equal(cut.counts, full[cut.token_cell, cut.ids])
    special = np.isin(cut.ids, list(store.vocab.specials.values()))
    assert (cut.counts.numpy()[special] == 0).all()


def test_a_cell_that_would_lose_everything_keeps_a_gene(store):
    batch = batch_of(store, 4)
    views = Views(ViewOptions(min_depth=1e-9), store.vocab, gene_scale(store))
    view = views.thin_counts(batch, torch.Generator().manual_seed(0))
    genes = ~torch.isin(view.ids, torch.tensor(list(store.vocab.specials.values())))
    assert (torch.zeros(view.n_cells).index_add(0, view.token_cell, genes.float()) >= 1).all()


def test_refusals(store):
    from dataclasses import replace

    batch = replace(batch_of(store), token_fields={})
    with pytest.raises(ValueError, match="prepare it again with keep_counts=true, or set head.view.min_depth=1"):
        Views(ViewOptions(min_depth=0.5), store.vocab)(batch, batch_generator(batch))
    with pytest.raises(ValueError, match="head.view.min_depth=0"):
        Views(ViewOptions(min_depth=0), store.vocab)
