"""The protocol: planted truth is found, a label at random is not, leaks are refused, attention is tested."""

import numpy as np
import pandas as pd
import pytest

from scfm.analysis.phenotypes.attention_tests import agreement, deletion_table, type_table
from scfm.analysis.phenotypes.crossfit import logistic_heldout
from scfm.analysis.phenotypes.folds import donor_folds, permuted_labels
from scfm.inference.model import load
from support import command

FEW = {"permutations": 19, "gene_components": 16, "width": 8, "hidden": 8, "steps": 40, "draws": 50}


@pytest.fixture(scope="module")
def found(cohort):
    return load(cohort.checkpoint).analyse(
        "phenotype", cohort.cells, label="response", types="cell_type", batch="batch", **FEW
    )


def test_a_planted_phenotype_is_found_with_its_cells(found):
    own = found.tables["scores"].set_index("method").loc["attention"]
    assert own["auc"] > 0.9 and own["p"] < 0.06 and own["n_donors"] == 16
    cells = found.tables["cells"]
    assert len(cells) == 352
    means = cells.groupby("sample")["attention"].mean()
    np.testing.assert_allclose(means, 1, atol=1e-3)
    truth = found.tables["samples"].set_index("sample")["truth"]
    own_cells = (cells["type"] == "type 1") & (cells["sample"].map(truth) == "yes")
    assert cells["phenotype_score"][own_cells].mean() > cells["phenotype_score"][~own_cells].mean() + 0.5
    assert {"roc", "attention_by_type"} <= set(found.figures)
    deletion = found.tables["deletion"].set_index("cells")
    assert deletion.loc["excess", "fall"] > deletion.loc["excess, permuted labels", "fall"]


def test_a_label_at_random_stays_at_chance(cohort):
    result = load(cohort.checkpoint).analyse("phenotype", cohort.cells, label="noise", types="cell_type", **FEW)
    scores = result.tables["scores"].set_index("method")
    assert (scores["p"] > 0.05).all()
    assert scores.loc["attention", "auc"] < 0.75


def test_the_command_writes_the_folder(cohort, tmp_path):
    said = command(
        "analyse", "analysis=phenotype", f"init_from={cohort.checkpoint}", f"input={cohort.file}",
        f"output={tmp_path / 'out'}", "analysis.label=response", "analysis.types=cell_type", "analysis.within=true",
        "analysis.permutations=3", "analysis.gene_components=16", "analysis.width=12", "analysis.steps=20",
    )  # fmt: skip
    assert "p = " in said[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "samples.csv",
        "scores.csv",
        "deletion.csv",
        "attention_by_type.csv",
        "cells.parquet",
        "report.html",
        "roc.png",
    } <= names
    assert len(pd.read_csv(tmp_path / "out/samples.csv")) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "cell_type"}, "the label is not constant"),
        ({"label": "response", "batch": "lane"}, "the label follows 'lane'"),
        ({"label": "response", "min_cells": 25}, "donor.s. with enough cells"),
        ({"label": "response", "sample": "cell"}, "a bag of one cell"),
        ({"label": "kind"}, "no column 'kind'"),
        ({"label": "response", "within": True}, "give analysis.types"),
        ({"label": "response", "folds": 1}, "analysis.min_cells"),
        ({"label": "response", "width": 65}, "widths up to 64"),
    ],
)
def test_refusals(cohort, options, message):
    cells = cohort.cells.copy()
    cells.obs["cell"] = cells.obs_names
    with pytest.raises(ValueError, match=message):
        load(cohort.checkpoint).analyse("phenotype", cells, **options)


def test_donors_are_never_on_both_sides_and_every_sample_is_tested():
    donors = np.repeat(np.arange(15), 2)
    folds = donor_folds(donors % 2, donors)
    assert len(folds) == 15
    many = np.repeat(np.arange(24), 2)
    for donor, parts in ((donors, folds), (many, donor_folds(many % 2, many, folds=4, repeats=2))):
        for train, test in parts:
            assert not set(donor[train]) & set(donor[test]) and (train ^ test).all()
        assert (sum(test.astype(int) for _, test in parts) == len(parts) // (15 if donor is donors else 4)).all()


def test_labels_are_permuted_over_donors_or_inside_them():
    donors = np.repeat(np.arange(10), 2)
    labels = permuted_labels(donors % 2, donors, 30)
    assert (labels[0] == donors % 2).all()
    assert (labels[:, ::2] == labels[:, 1::2]).all() and len(np.unique(labels, axis=0)) > 20
    both = np.tile([0, 1], 10)
    inside = permuted_labels(both, donors, 30)
    assert (inside[:, ::2] + inside[:, 1::2] == 1).all()


def test_a_split_that_leaks_donors_is_seen_by_the_permutations():
    """Features that only name the donor: leaving out samples is perfect, leaving out donors is chance."""
    donors = np.repeat(np.arange(12), 2)
    truth, codes = donors % 2, np.eye(12)[donors]
    labels = permuted_labels(truth, donors, 0)
    leaking = [(np.arange(24) != i, np.arange(24) == i) for i in range(24)]
    assert (logistic_heldout(codes, labels, leaking)[0].argmax(1) == truth).all()
    assert (logistic_heldout(codes, labels, donor_folds(truth, donors))[0].argmax(1) == truth).mean() < 0.6


def test_tables_by_hand():
    falls = np.zeros((3, 4, 2))
    falls[0, :, 0], falls[1, :, 0], falls[2, :, 0] = 1.0, 0.2, 1.0
    table = deletion_table(falls).set_index("cells")
    assert table.loc["excess", "fall"] == 1 and table.loc["excess, permuted labels", "p"] == pytest.approx(2 / 3)
    place, types = np.array([0, 0, 1, 1]), np.array(["a", "b", "a", "b"], dtype=object)
    attention = np.array([1.5, 0.5, 1.0, 1.0])
    by_type = type_table(attention, types, place).set_index("type")
    assert by_type.loc["a", "ratio"] == 1.25 and by_type.loc["b", "samples"] == 2
    assert agreement(attention, attention, place) == pytest.approx(1.0)
    assert np.isnan(agreement(np.ones(4), attention, place))
