"""Why a label: from a head, from a probe, from the command; and what is refused."""

import numpy as np
import pandas as pd
import pytest

from scfm.inference.model import load
from support import command

FEW = {"max_cells": 30, "n_steps": 8, "n_draws": 1, "sizes": [1, 3]}


@pytest.fixture(scope="module")
def result(asked):
    return load(asked.head).analyse("explain", asked.cells, donor="donor", label="cell_type", **FEW)


def test_genes_by_integrated_gradients_matter_more_than_random_ones(result):
    deletion = result.tables["deletion"]
    ours = deletion[deletion["score"] == "integrated_gradients"]
    assert (ours["low"] > 0).all() and ours["genes"].tolist() == [1, 3]
    assert set(deletion["score"]) == {"integrated_gradients", "rollout", "wilcoxon", "rank"}
    assert result.coverage["completeness error"] < 0.1


def test_wilcoxon_on_one_half_finds_the_markers_of_the_other(result):
    agreement = result.tables["agreement"].set_index("score")
    assert agreement.loc["wilcoxon", "ndcg_at_50"] > agreement.loc["mean_expression", "ndcg_at_50"]
    assert agreement.to_numpy().min() >= 0 and agreement.to_numpy().max() <= 1


def test_every_gene_of_every_cell_has_its_attributions(result, asked):
    table = result.tables["attributions"]
    assert {"row", "gene", "group", "rank", "integrated_gradients", "rollout"} <= set(table)
    assert table["row"].nunique() == 30 and not table.isna().any().any()
    donors = asked.cells.obs["donor"].iloc[table["row"].unique()].nunique()
    assert donors == 2  # half of four
    assert (result.tables["markers"].groupby("group").size() == 50).all()


@pytest.mark.parametrize("name", ["mlm", "ar"])
def test_without_a_head_a_probe_is_explained(asked, name, tmp_path):
    out = tmp_path / "out"
    said = command(
        "analyse", "analysis=explain", f"init_from={asked.folder / name}/checkpoints/last.ckpt", f"input={asked.file}",
        f"output={out}", "analysis.label=cell_type", "analysis.max_cells=12", "analysis.n_steps=4",
        "analysis.sizes=[2]",
    )  # fmt: skip
    assert len(said) == 3 and (out / "report.html").is_file()
    assert {"deletion.csv", "agreement.csv", "markers.csv", "attributions.parquet", "genes.png", "deletion.png"} <= {
        path.name for path in out.iterdir()
    }
    assert pd.read_csv(out / "deletion.csv")["cells"].max() == 12


def test_the_groups_of_a_head_need_no_column(asked):
    result = load(asked.head).analyse("explain", asked.cells, **(FEW | {"max_cells": 6}))
    assert result.coverage["labels"] == "the head's own labels"


def test_a_simple_method_that_does_better_comes_first():
    from scfm.analysis.attribution.report import deletion_sentences

    columns = ["score", "genes", "fall", "random", "excess", "low", "high", "cells"]
    rows = [
        (s, 5, x + 0.1, 0.1, x, x, x, 9)
        for s, x in (("integrated_gradients", 1.0), ("rollout", 0.2), ("wilcoxon", 2.0), ("rank", 0))
    ]
    first = deletion_sentences(pd.DataFrame(rows, columns=columns))[0]
    assert first.startswith("A simple choice of genes") and "2.00" in first
    rows[2] = ("wilcoxon", 5, 0.2, 0.1, 0.1, 0.1, 0.1, 9)
    assert deletion_sentences(pd.DataFrame(rows, columns=columns))[0].startswith("Taking out the 5 genes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no annotation head whose labels"),
        ({"label": "kind"}, "obs has no column 'kind'"),
        ({"label": "cell_type", "donor": "one"}, "names one donor"),
        ({"label": "cell_type", "sizes": [0]}, "analysis.sizes"),
        ({"label": "cell_type", "n_steps": 0}, "analysis.n_steps=0"),
        ({"label": "one"}, "needs two"),
    ],
)
def test_refusals(asked, options, message):
    cells = asked.cells.copy()
    cells.obs["one"] = "same"
    with pytest.raises(ValueError, match=message):
        load(asked.mlm).analyse("explain", cells, **options)


def test_a_head_that_reads_counts_is_explained(asked, tmp_path):
    from support import SMALL

    command("prepare", f"input={asked.file}", f"output={tmp_path / 'store'}", "workers=1", "obs=[cell_type]",
            "group=donor", "keep_counts=true")  # fmt: skip
    command("finetune", f"init_from={asked.mlm}", f"store={tmp_path / 'store'}", f"output={tmp_path / 'head'}",
            "head=annotation/classifier", "head.label=cell_type", "head.gene_components=4", "head.counts=true",
            *SMALL[5:], "data.max_length=32", "trainer.max_steps=2")  # fmt: skip
    model = load(tmp_path / "head" / "checkpoints" / "last.ckpt")
    result = model.analyse("explain", asked.cells, **(FEW | {"max_cells": 6}))
    assert result.coverage["completeness error"] < 0.1
    assert np.isfinite(result.tables["deletion"]["fall"]).all()


def test_equal_seeds_give_equal_results(asked):
    one, two = (
        load(asked.mlm).analyse("explain", asked.cells, label="cell_type", **(FEW | {"max_cells": 6})) for _ in range(2)
    )
    for name in one.tables:
        pd.testing.assert_frame_equal(one.tables[name], two.tables[name])
    assert np.isfinite(one.tables["deletion"]["fall"]).all()
