"""What a dry run advises follows from the file: depth, columns, where the counts are."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scfm.datasets.synthetic import synthetic_cells
from scfm.preparation.advice import advise
from support import command


def keys(path, **options):
    found = advise(path, **{"max_length": 4096, "tokenizer": "geneformer_v2", **options})
    return [word for choice in found for word in choice.keys], " ".join(choice.reason for choice in found)


@pytest.fixture
def cells():
    return synthetic_cells(n_cells=60, n_genes=400, n_types=3, n_donors=4)


def test_columns_that_look_like_labels_and_donors_are_named(cells, tmp_path):
    cells.write_h5ad(tmp_path / "a.h5ad")
    words, why = keys(tmp_path / "a.h5ad")
    assert "obs=[cell_type,donor,batch]" in words
    assert "group=donor" in words
    assert "4 values" in why


def test_without_a_donor_it_says_that_cells_are_split_one_by_one(cells, tmp_path):
    cells.obs = pd.DataFrame({"age": np.arange(60) % 7}, index=cells.obs_names)
    cells.write_h5ad(tmp_path / "a.h5ad")
    words, why = keys(tmp_path / "a.h5ad")
    assert not [word for word in words if word.startswith("group")]
    assert "of age none looks like a donor" in why


def test_a_column_of_one_value_or_of_names_is_no_group(cells, tmp_path):
    cells.obs["donor"] = "d1"
    cells.obs["sample_name"] = cells.obs_names
    cells.obs = cells.obs[["donor", "sample_name"]]
    cells.write_h5ad(tmp_path / "a.h5ad")
    assert not [word for word in keys(tmp_path / "a.h5ad")[0] if word.startswith(("group", "obs"))]


def test_shallow_cells_want_their_counts_and_deep_ones_do_not(tmp_path):
    for n_genes, expected in ((400, True), (6000, False)):
        rng = np.random.default_rng(0)
        made = synthetic_cells(n_cells=20, n_genes=n_genes)
        counts = rng.poisson(5, made.shape) + 1
        ad.AnnData(counts.astype(np.float32), obs=made.obs, var=made.var).write_h5ad(tmp_path / "a.h5ad")
        assert ("keep_counts=true" in keys(tmp_path / "a.h5ad")[0]) is expected


def test_what_a_short_tokenizer_cuts_is_said(cells, tmp_path):
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(tmp_path / "a.h5ad")
    _, why = keys(tmp_path / "a.h5ad", max_length=62, tokenizer="tgpt")
    assert "its 62 tokens hold the top" in why
    assert "counts are read from layers['counts']" in why


def test_a_dry_run_ends_with_a_command_that_is_right(cells, tmp_path, caplog):
    cells.write_h5ad(tmp_path / "a.h5ad")
    with caplog.at_level(logging.INFO):
        command("prepare", f"input={tmp_path / 'a.h5ad'}", f"output={tmp_path / 'store'}", "dry_run=true")
    assert "What this file asks for, and why:" in caplog.text
    shown = caplog.text.split("What this file asks for, and why:")[1].split("result")[0]
    assert max(map(len, shown.splitlines())) <= 80
    (line,) = [line for line in caplog.text.splitlines() if line.startswith("next")]
    assert not (tmp_path / "store").exists()
    import shlex

    _, *words = shlex.split(line.removeprefix("next"))
    command("prepare", *words)
    assert (tmp_path / "store/scfm.json").is_file()
