"""Which cells a store holds, in which order, with what beside their tokens."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from prepared import lists, median_tokenizer, rank_tokenizer
from scfm.cells.quality import Quality
from scfm.preparation.api import prepare
from scfm.types import Spec
from support import checksums


def test_an_unfitted_tokenizer_is_fitted_on_the_corpus(files, fitted, tmp_path, cells):
    store = prepare(files, tmp_path / "s", median_tokenizer(), cells_per_part=40)
    assert store.vocab.hash == fitted.vocab.hash
    np.testing.assert_allclose(store.tokenizer["medians"], fitted.to_dict()["medians"], rtol=0)
    assert prepare(files, tmp_path / "r", rank_tokenizer(), counts="lognorm_ok").vocab.specials


def test_shuffled_is_a_permutation_that_mixes_the_files(files, fitted, store, tmp_path):
    options = {"obs": ["cell_type"], "cells_per_part": 64, "shuffle": True}
    first = prepare(files, tmp_path / "a", fitted, **options)
    prepare(files, tmp_path / "b", fitted, block_size=7, **options)
    other = prepare(files, tmp_path / "c", fitted, **{**options, "seed": 1})
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")
    assert sorted(map(tuple, lists(first))) == sorted(map(tuple, lists(store)))
    assert first.names(np.arange(300)) != other.names(np.arange(300))
    by_name = dict(zip(store.names(np.arange(300)), lists(store), strict=True))
    assert [by_name[name] for name in first.names(np.arange(300))] == lists(first)
    half = first.obs("file")[:150]
    assert 40 < half.sum() < 90  # 65 expected, sd 5


def test_repeated_cells_are_reported_or_dropped(files, fitted, tmp_path, store):
    extra = tmp_path / "again.h5ad"
    adata = ad.read_h5ad(files[0])[:20].copy()
    adata.obs_names = [f"new{i}" for i in range(20)]
    adata.write_h5ad(extra)
    told = prepare([*files, extra], tmp_path / "a", fitted, duplicates="report", cells_per_part=64)
    assert [file["repeated"] for file in told.files] == [0, 0, 20]
    assert len(told) == 320
    for shuffle in (False, True):
        left = prepare(
            [*files, extra], tmp_path / f"{shuffle}", fitted, duplicates="drop", cells_per_part=64, shuffle=shuffle
        )
        assert len(left) == 300
        assert left.files[2]["dropped"] == {"occurred before": 20}
        assert sorted(left.hashes) == sorted(store.hashes)


def test_quality_rules_drop_and_count(files, fitted, tmp_path):
    adata = ad.read_h5ad(files[0])
    totals = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["is_primary_data"] = np.arange(adata.n_obs) % 2 == 0
    adata.write_h5ad(tmp_path / "x.h5ad")
    cut = float(np.median(totals))
    quality = Quality(min_counts=cut, is_primary_data=True, expression="batch != 'batch 1'")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, quality=quality)
    kept = (totals >= cut) & adata.obs["is_primary_data"].to_numpy() & (adata.obs["batch"] != "batch 1").to_numpy()
    assert store.names(np.arange(len(store))) == list(adata.obs_names[kept])
    report = store.files[0]
    assert report["dropped"]["min_counts"] == (totals < cut).sum()
    assert report["kept"] == kept.sum() == report["cells"] - sum(report["dropped"].values())
    with pytest.raises(ValueError, match="cannot be evaluated"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, quality=Quality(expression="nosuch > 1"))
    with pytest.raises(ValueError, match="only obs columns"):
        Quality(expression="@pd.io")
    with pytest.raises(ValueError, match="filter_pass"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, quality=Quality(filter_pass=True))


def test_mitochondrial_share(tmp_path):
    genes = ["MT-CO1", "MT-ND1", "CD3E", "ACTB"]
    counts = csr_matrix(np.array([[5, 0, 3, 2], [0, 1, 5, 4], [0, 0, 5, 5]], dtype=np.int32))
    ad.AnnData(counts, var=pd.DataFrame(index=genes)).write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", rank_tokenizer(), quality=Quality(max_mito=0.2))
    assert store.names(np.arange(len(store))) == ["1", "2"]
    assert store.files[0]["dropped"] == {"max_mito": 1}


def test_cells_without_counts(cells, fitted, tmp_path):
    adata = cells[:30].copy()
    dense = adata.X.toarray()
    dense[7] = 0
    adata.X = csr_matrix(dense)
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match=rf"x\.h5ad: cell '{adata.obs_names[7]}' \(row 7\) has no counts"):
        prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted)
    assert not (tmp_path / "s").exists()
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, empty="drop", overwrite=True)
    assert len(store) == 29
    assert store.files[0]["dropped"] == {"no counts": 1}


def test_counts_beside_the_tokens(cells, fitted, tmp_path):
    cells[:20].write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, keep_counts=True)
    import datasets

    rows = datasets.load_from_disk(str(store.path))
    counts, columns = cells.X.toarray()[:20], fitted.harmonize(list(cells.var_names)).columns
    for i in (0, 19):
        by_token = {int(columns[g]): counts[i, g] for g in range(cells.n_vars)}
        expected = [by_token.get(token, 0.0) for token in rows[i]["input_ids"]]
        np.testing.assert_allclose(rows[i]["counts"], expected, rtol=1e-6)


def test_given_totals(cells, fitted, tmp_path):
    adata = cells[:20].copy()
    adata.obs["n_counts"] = np.asarray(adata.X.sum(1)).ravel() * 2.0
    adata.write_h5ad(tmp_path / "x.h5ad")
    store = prepare(tmp_path / "x.h5ad", tmp_path / "s", fitted, n_counts="n_counts")
    assert json.loads((store.path / "manifest.json").read_text())["options"]["n_counts"] == "n_counts"
    with pytest.raises(ValueError, match="n_counts='other' is no column of obs"):
        prepare(tmp_path / "x.h5ad", tmp_path / "t", fitted, n_counts="other")


def test_labels_of_many_files(cells, fitted, tmp_path):
    one, two = cells[:40].copy(), cells[40:80].copy()
    one.obs["donor"], two.obs["donor"] = 7, 11.0
    one.obs["site"] = "lung"
    two.obs["cell_type"] = two.obs["cell_type"].astype(str).replace("type 1", np.nan)
    one.write_h5ad(tmp_path / "1.h5ad")
    two.write_h5ad(tmp_path / "2.h5ad")
    both = [tmp_path / "1.h5ad", tmp_path / "2.h5ad"]
    store = prepare(both, tmp_path / "s", fitted, obs=["cell_type"], group="donor")
    assert store.categories("donor") == ("11", "7")
    assert (store.obs("cell_type") == -1).sum() == (cells.obs["cell_type"][40:80] == "type 1").sum()
    with pytest.raises(ValueError, match=r"2\.h5ad: obs has no column 'site'.*missing=allow"):
        prepare(both, tmp_path / "t", fitted, obs=["site"])
    allowed = prepare(both, tmp_path / "t", fitted, obs=["site"], missing="allow", overwrite=True)
    assert allowed.obs("site").tolist() == [0] * 40 + [-1] * 40
    two.obs["site"] = 3.0
    two.write_h5ad(tmp_path / "2.h5ad")
    with pytest.raises(ValueError, match="holds numbers in .*2.h5ad but names in .*1.h5ad"):
        prepare(both, tmp_path / "u", fitted, obs=["site"])


def test_integers_are_classes_where_the_option_says_so(cells, fitted, tmp_path):
    """In one file they are integers, in the other floats because one is missing: the same classes."""
    parts = [cells[:150].copy(), cells[150:].copy()]
    clusters = np.arange(300) % 12
    parts[0].obs["leiden"] = clusters[:150]
    parts[1].obs["leiden"] = np.where(np.arange(150) == 0, np.nan, clusters[150:])
    paths = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]
    for part, path in zip(parts, paths, strict=True):
        part.write_h5ad(path)
    store = prepare(paths, tmp_path / "s", fitted, categories=["leiden"])
    assert store.categories("leiden") == tuple(sorted(map(str, range(12))))
    codes = store.obs("leiden")
    assert codes[150] == -1
    named = np.array(store.categories("leiden"))[np.delete(codes, 150)]
    np.testing.assert_array_equal(named, np.delete(clusters, 150).astype(str))
    numbers = prepare(paths, tmp_path / "n", fitted, obs=["leiden"])
    assert numbers.categories("leiden") is None
    with pytest.raises(ValueError, match=r"numbers become classes with scfm-prepare categories='\[leiden\]'"):
        Spec(numbers.vocab, 8).categories("head.label", "leiden")
