"""``analysis=genes`` from command and API, masked and autoregressive, with the baselines beside and its refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from scfm.inference.model import load
from support import command


@pytest.fixture(scope="module")
def labels(asked, tmp_path_factory):
    """Genes of high and of low expression: what the expression baseline must find."""
    cells = asked.cells
    mean = np.asarray(cells.X.mean(axis=0)).ravel()
    order = np.argsort(-mean)
    names = np.array(cells.var_names)
    path = tmp_path_factory.mktemp("labels") / "classes.tsv"
    table = pd.DataFrame({"gene": np.r_[names[order[:25]], names[order[-30:]]], "class": ["high"] * 25 + ["low"] * 30})
    table.to_csv(path, sep="\t", index=False)
    return path


METHODS = {
    "contextual",
    "contextual_mean",
    "static",
    "expression",
    "expression_pca",
    "random_weights",
    "shuffled_labels",
}


@pytest.mark.parametrize("objective", ["mlm", "ar"])
def test_command_and_api_say_the_same(asked, labels, tmp_path, objective):
    path = getattr(asked, objective)
    options = {"labels": str(labels), "folds": 3, "draws": 50, "occurrences": 5, "min_cells": 1, "max_cells": 80}
    words = [f"analysis.{key}={value}" for key, value in options.items()]
    output = tmp_path / "out"
    said = command("analyse", "analysis=genes", f"init_from={path}", f"input={asked.file}", f"output={output}", *words)
    found = load(path).analyse("genes", asked.file, **options)
    assert list(found.summary) == said
    scores = pd.read_csv(output / "scores.csv").set_index("method")
    assert set(scores.index) == METHODS
    np.testing.assert_allclose(scores["auroc"], found.tables["scores"]["auroc"], atol=1e-4)
    assert scores.loc["expression", "auroc"] > 0.95, "classes of expression are known to expression"
    assert "no more than expression" in said[0]
    genes = pd.read_csv(output / "genes.csv")
    assert not genes["gene"].duplicated().any()
    assert set(genes) >= {"gene", "symbol", "class", "fold", "n_cells", *METHODS}
    assert genes["n_cells"].nunique() > 1
    assert json.loads((output / "manifest.json").read_text())["coverage"]["genes_scored"] == len(genes)


def test_a_gene_outside_of_the_vocabulary_is_left_out(asked, labels, tmp_path):
    table = pd.read_csv(labels, sep="\t")
    more = pd.concat([table, pd.DataFrame({"gene": ["NO_GENE"], "class": ["low"]})])
    more.to_csv(tmp_path / "more.tsv", sep="\t", index=False)
    options = {"folds": 3, "draws": 10, "occurrences": 3, "min_cells": 1, "random_weights": False}
    found = load(asked.mlm).analyse("genes", asked.file, labels=str(tmp_path / "more.tsv"), **options)
    assert found.coverage["genes_of_the_file"] == found.coverage["genes_in_the_vocabulary"] + 1
    assert "NO_GENE" not in set(found.tables["genes"]["symbol"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positive": "middle"}, "no class 'middle'"),
        ({"folds": 40}, "genes of a class for folds=40"),
        ({"column": "kind"}, "has no column 'kind'"),
        ({"min_cells": 10_000}, "two classes of 5 genes"),
        ({"fold": 3}, "did you mean 'folds'"),
    ],
)
def test_one_sentence_before_any_work(asked, labels, options, words):
    with pytest.raises(ValueError, match=words):
        load(asked.mlm).analyse("genes", asked.file, labels=str(labels), **options)
