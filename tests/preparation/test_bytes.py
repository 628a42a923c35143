"""The same bytes however the work is cut and the input is laid out; inputs stay as they are."""

import hashlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix, vstack

from prepared import lists, rank_tokenizer
from scfm.preparation.api import prepare
from scfm.preparation.executors import Local
from scfm.store.cell_hash import cell_hashes
from scfm.store.token_store import TokenStore
from support import checksums


def test_every_cell_is_what_the_tokenizer_says(store, files, fitted, cells):
    columns = fitted.harmonize(list(cells.var_names)).columns
    expected = fitted.encode(csr_matrix(cells.X), columns)
    assert lists(store) == [expected[i].tolist() for i in range(cells.n_obs)]
    assert store.names(np.arange(cells.n_obs)) == list(cells.obs_names)
    assert store.columns == ("cell_type", "pseudotime", "donor")
    assert store.group == "donor"
    assert [store.categories("cell_type")[code] for code in store.obs("cell_type")] == list(cells.obs["cell_type"])
    np.testing.assert_allclose(store.obs("pseudotime"), cells.obs["pseudotime"].to_numpy(), rtol=1e-6)
    assert store.categories("file") == ("one cell.h5ad", "zwei.h5ad")
    assert np.bincount(store.obs("file")).tolist() == [170, 130]
    assert store.vocab.hash == fitted.vocab.hash
    hashes = cell_hashes(csr_matrix(cells.X), columns, fitted.vocab)
    assert store.overlap(hashes).all()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("block_size", [1, 37, 1000])
def test_bytes_do_not_depend_on_workers_and_blocks(files, fitted, tmp_path, workers, block_size, reference):
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, workers=workers, block_size=block_size, obs=["donor"])
    assert checksums(tmp_path / "s") == reference


def test_bytes_do_not_depend_on_processes(files, fitted, tmp_path, reference):
    options = {"workers": 2, "executor": Local(threads=0)}
    prepare(files, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"], **options)
    assert checksums(tmp_path / "s") == reference


@pytest.mark.parametrize("kind", ["lzf", "csc", "dense", "float64", "layer"])
def test_bytes_do_not_depend_on_compression_and_layout(files, fitted, tmp_path, kind, reference):
    paths = []
    for path in files:
        adata, options = ad.read_h5ad(path), {}
        if kind == "lzf":
            options["compression"] = "lzf"
        if kind == "csc":
            adata.X = csc_matrix(adata.X)
        if kind == "dense":
            adata.X = adata.X.toarray()
        if kind == "float64":
            adata.X = adata.X.astype(np.float64)
        if kind == "layer":
            adata.layers["counts"] = adata.X.copy()
            adata.X = np.log1p(adata.X)
        paths.append(tmp_path / path.name)
        adata.write_h5ad(paths[-1], **options)
    prepare(paths, tmp_path / "s", fitted, cells_per_part=50, obs=["donor"])
    got = checksums(tmp_path / "s")
    same = [name for name in reference if name.endswith("arrow")]
    assert {name: got[name] for name in same} == {name: reference[name] for name in same}
    if kind != "layer":  # there, scfm.json tells where the counts were found
        assert got == reference


@pytest.mark.filterwarnings("error::UserWarning")
def test_bytes_of_fractions_do_not_depend_on_blocks(cells, tmp_path):
    """A block whose values all happen to be whole is still one of fractions to the hash of its cells."""
    adata = cells.copy()
    adata.X = vstack([cells.X[:60], np.log1p(cells.X[60:])], format="csr")
    adata.write_h5ad(tmp_path / "x.h5ad")
    for size in (60, 1000):
        prepare(tmp_path / "x.h5ad", tmp_path / f"{size}", rank_tokenizer(), counts="lognorm_ok", block_size=size)
    assert checksums(tmp_path / "60") == checksums(tmp_path / "1000")


def test_columns_in_another_order_give_the_same_tokens(files, fitted, tmp_path, store):
    paths = []
    for path in files:
        adata = ad.read_h5ad(path)
        paths.append(tmp_path / path.name)
        adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy().write_h5ad(paths[-1])
    again = prepare(paths, tmp_path / "s", fitted)
    assert lists(again) == lists(store)
    assert (again.hashes == store.hashes).all()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 3), st.integers(1, 30))
def test_any_cut_of_any_cells_gives_the_same_tokens(
    fitted, tmp_path_factory, seed, block_size, workers, cells_per_part
):
    """Random counts with cells that tie, columns in random order: ranks are the kept genes, best first."""
    generator = np.random.default_rng(seed)
    genes = generator.permutation(np.array(fitted.vocab.tokens)[fitted.vocab.gene_ids])
    counts = generator.poisson(generator.gamma(0.3, 3, (30, len(genes)))).astype(np.int32)
    counts[:, 0] += 1
    folder = tmp_path_factory.mktemp("any")
    var = pd.DataFrame(index=genes)
    ad.AnnData(csr_matrix(counts), var=var).write_h5ad(folder / "x.h5ad")
    options = {"block_size": block_size, "workers": workers, "cells_per_part": cells_per_part}
    store = prepare(folder / "x.h5ad", folder / "s", fitted, **options)
    medians = fitted.medians[[fitted.vocab.ids[gene] for gene in genes]]
    ids = np.array([fitted.vocab.ids[gene] for gene in genes])
    for row, got in zip(counts.astype(np.float64), lists(store), strict=True):
        values = row / row.sum() * 10_000 / medians
        order = np.lexsort((ids, -values))[: int((values > 0).sum())]
        assert got == [2, *ids[order][:62].tolist(), 3]


def test_inputs_are_not_touched(files, fitted, tmp_path):
    before = [(path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    prepare(files, tmp_path / "s", fitted)
    assert [(path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files] == before
    assert TokenStore.open(tmp_path / "s").files[0]["counts_from"]
