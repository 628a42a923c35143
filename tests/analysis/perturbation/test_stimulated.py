"""Does a model add to expression? Planted answers, halves of donors, the command, and refusals."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scfm.analysis.perturbation.page import compare_scores
from scfm.analysis.perturbation.stimulated import addition_sentence, judge_addition
from scfm.inference.model import load
from support import command

N = 200


def genes_table(shift, logfc, seed=0):
    """Genes with scores of the model and of expression."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "gene": [f"G{i}" for i in range(N)], "shift": shift, "residual": shift, "z": shift, "logfc": logfc,
            "wilcoxon_p": 10 ** -np.abs(logfc), "mean_rank": rng.normal(size=N), "n_cells": rng.integers(8, 90, N),
            "shift_random": rng.normal(size=N),
        }
    )  # fmt: skip


def judged(knows_model, knows_expression, seed=0):
    """The gain of a model whose shift, and a fold change that, know of the genes that change."""
    rng = np.random.default_rng(seed)
    positive = rng.random(N) < 0.3
    signs = rng.choice([-1, 1], (2, N))
    shift, logfc = signs * np.abs(rng.normal(size=(2, N)) + np.outer([knows_model, knows_expression], positive) * 2)
    table = genes_table(shift, logfc, seed)
    added = judge_addition(table, positive, seed)
    truth = set(table.loc[positive, "gene"])
    return added.set_index("features"), addition_sentence(added, compare_scores(table, truth), 90, "other donors")


def test_a_model_that_knows_what_expression_does_not_adds_to_it():
    added, sentence = judged(1.5, 0)
    row = added.loc["expression and shift"]
    assert row["auroc"] > 0.9 and row["auroc_gain_low"] > 0.2 and row["ap_gain_low"] > 0.2
    assert added.loc["expression and shift of random weights", "auroc_gain_low"] < 0.05
    assert "adds to what expression tells" in sentence


@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_that_knows_what_expression_knows_adds_nothing_sure(seed):
    for knows in (0, 1.5):
        added, sentence = judged(0, knows, seed)
        row = added.loc["expression and shift"]
        assert row["auroc_gain_low"] <= 0 and row["ap_gain_low"] <= 0
        assert "adds to" not in sentence
    assert added.loc["expression", "auroc"] > 0.9 and added.loc["expression", "auroc_gain"] == 0


@pytest.fixture(scope="module")
def stimulated(asked):
    """Cells of six donors, half of each donor stimulated: 30 of 150 genes are six times as frequent."""
    cells = asked.cells.copy()
    rng = np.random.default_rng(3)
    cells.obs["condition"] = np.where(np.arange(cells.n_obs) % 4 < 2, "stim", "ctrl")
    cells.obs["patient"] = [f"p{i % 6}" for i in range(cells.n_obs)]
    counts = cells.X.toarray()
    planted = rng.permutation(cells.n_vars)[:30]
    rows = np.flatnonzero(cells.obs["condition"] == "stim")
    counts[np.ix_(rows, planted)] += rng.poisson(4.0, (len(rows), 30))
    cells.X = csr_matrix(counts)
    return cells, set(cells.var_names[planted])


STATES = {"state": "condition", "start": "stim", "goal": "ctrl"}
QUICK = {"permutations": 0, "min_cells": 4, "max_cells": 20}


def test_truth_is_measured_in_donors_that_the_model_does_not_see(asked, stimulated):
    cells, planted = stimulated
    options = {**STATES, **QUICK, "donor": "patient", "stimulated": "input"}
    found = load(asked.mlm).analyse("perturb", cells, **options)
    genes = found.tables["genes"]
    changed = set(genes.loc[genes["changes"].eq(True), "symbol"])
    assert len(changed & planted) > 20 and len(changed - planted) < 5
    donors = set(found.tables["cells"]["donor"])
    assert len(donors) == 3, "the other three say which genes change"
    scores = found.tables["baselines"].set_index("score")
    assert scores.loc["logfc", "auroc"] > 0.9 and scores.loc["logfc", "ap"] > 0.8
    assert "what expression tells" in found.summary[0] and "other donors of the input" in found.summary[0]
    assert "measured" in found.figures


def test_another_file_may_hold_the_truth(asked, stimulated, tmp_path):
    cells, planted = stimulated
    cells.write_h5ad(tmp_path / "stimulated.h5ad")
    cells[::2].copy().write_h5ad(tmp_path / "own.h5ad")
    words = [f"analysis.{key}={value}" for key, value in {**STATES, **QUICK}.items()]
    said = command(
        "analyse", "analysis=perturb", f"init_from={asked.ar}", f"input={tmp_path / 'own.h5ad'}",
        f"output={tmp_path / 'out'}", f"analysis.stimulated={tmp_path / 'stimulated.h5ad'}", *words,
    )  # fmt: skip
    assert "stimulated.h5ad" in said[0]
    added = pd.read_csv(tmp_path / "out/added.csv").set_index("features")
    assert set(added.index) == {"expression", "expression and shift", "expression and shift of random weights"}
    genes = pd.read_csv(tmp_path / "out/genes.csv")
    assert {"measured_logfc", "measured_fdr", "changes"} <= set(genes)
    assert len(set(genes.loc[genes["changes"].eq(True), "symbol"]) & planted) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stimulated": "input"}, "needs analysis.state, analysis.start and analysis.goal"),
        ({"stimulated": "input", "truth": "genes.txt", **STATES}, "takes the place of analysis.truth"),
        ({"stimulated": "input", **STATES, "goal": "none"}, "0 cell.s. of condition == 'none'"),
        ({"stimulated": "input", **STATES, "min_change": 50.0}, "0 change in other cells"),
        ({"stimulated": "input", **STATES, "donor": "who"}, "obs has no column 'who'"),
        ({"stimulated": "input", **STATES, "donor": "pair"}, "of one donor"),
    ],
)
def test_refusals(asked, stimulated, tmp_path, monkeypatch, options, words):
    cells, _ = stimulated
    cells = cells.copy()
    cells.obs["pair"] = np.where(np.arange(cells.n_obs) % 8 < 4, "a", "b")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genes.txt").write_text("CD74\n")
    with pytest.raises(ValueError, match=words) as error:
        load(asked.mlm).analyse("perturb", cells, **{**QUICK, **options})
    assert "\n" not in str(error.value)


def test_files_that_cannot_say_it(asked, stimulated, tmp_path):
    cells, _ = stimulated
    with pytest.raises(FileNotFoundError, match="expected a file of cells of both states, or input"):
        load(asked.mlm).analyse("perturb", cells, stimulated="none.h5ad", **STATES, **QUICK)
    lone = anndata.AnnData(cells.X, obs=cells.obs.drop(columns="condition"), var=cells.var)
    lone.write_h5ad(tmp_path / "lone.h5ad")
    with pytest.raises(ValueError, match="obs has no column 'condition'"):
        load(asked.mlm).analyse("perturb", cells, stimulated=str(tmp_path / "lone.h5ad"), **STATES, **QUICK)
