"""Orderings of cells beside diffusion pseudotime and ridge regression, and what an evaluation makes of them."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from scfm.evaluation.evaluate import evaluate
from scfm.evaluation.methods.expression import read_expression
from scfm.evaluation.times import read_times
from scfm.evaluation.trajectory import stage_predictions
from scfm.plot import smooth
from scfm.report.evaluation import write
from scfm.report.trajectory import changing_genes

pytest.importorskip("scanpy")


@pytest.fixture(scope="module")
def line():
    """Cells along a line in two batches; genes 0 to 9 rise, 10 to 19 fall, the rest do nothing."""
    rng = np.random.default_rng(0)
    n = 240
    time = np.sort(rng.random(n))
    rate = np.full((n, 80), 3.0)
    rate[:, :10] *= 4 * time[:, None] + 0.1
    rate[:, 10:20] *= 4 * (1 - time[:, None]) + 0.1
    adata = AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.obs["stage"] = pd.Categorical(np.array(["early", "middle", "late"])[np.minimum((time * 3).astype(int), 2)])
    adata.obs["time"], adata.obs["batch"] = time, pd.Categorical(np.array(["a", "b"])[np.arange(n) % 2])
    adata.obs["scfm_pseudotime"] = time + rng.normal(0, 0.02, n)
    adata.obsm["X_scfm"] = np.c_[time * 5, rng.normal(0, 0.3, (n, 3))]
    return adata


def test_a_good_head_stands_above_and_the_order_inside_batches_is_kept(line, tmp_path):
    result = evaluate(
        line, time="stage", stages=["early", "middle", "late"], batch="batch", controls=False, baselines=("pca",),
        folds=2,
    )  # fmt: skip
    write(result, tmp_path)
    found = result.to_dict()
    table = found["trajectory"]
    assert table["head"]["spearman"] > 0.9
    assert table["head"]["conservation_by_batch"] > 0.9
    assert {"diffusion pseudotime on PCA", "ridge on PCA", "ridge on X_scfm"} <= set(table)
    assert table["logistic regression over stages on X_scfm"]["concordance"] > 0.9
    best, plain = (table[f"diffusion pseudotime on PCA{end}"] for end in (", best of 9", ""))
    assert best["concordance"] >= plain["concordance"] - 1e-9
    assert table["diffusion pseudotime on PCA"]["seconds"] > 0
    assert "of the pairs of cells of different stages rightly" in found["summary"][0]
    for name in ("stages.png", "genes_along_pseudotime.png", "umap.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000


def test_times_alone_are_enough_and_may_be_numbers(line):
    found = evaluate(line, time="time", controls=False, baselines=("pca",), folds=2).to_dict()
    assert found["trajectory"]["head"]["spearman"] > 0.95
    assert found["annotation"] == {}
    assert not any("over stages" in name for name in found["trajectory"])  # each cell has a time of its own
    assert "Spearman correlation" in found["summary"][0]


def test_one_method_without_an_order_leaves_the_others_scored(line, caplog):
    flat = line.copy()
    flat.obs["scfm_pseudotime"] = 0.5
    result = evaluate(flat, time="time", batch="batch", controls=False, baselines=("pca",), folds=2)
    assert np.isnan(result.scores["trajectory"].loc["head", "spearman"])
    assert result.scores["trajectory"].loc["ridge on X_scfm", "spearman"] > 0.9
    assert result.trajectory.shown == "diffusion pseudotime on X_scfm"
    assert "head is not scored: the pseudotime is 0.5 in all cells" in caplog.text


def test_the_genes_that_change_are_found(line):
    columns = changing_genes(read_expression(line), line.obs["time"].to_numpy(), 8)
    assert set(columns[:4]) <= set(range(10))
    assert set(columns[4:]) <= set(range(10, 20))


def test_smoothing_keeps_a_constant_and_a_trend():
    time = np.random.default_rng(0).exponential(size=300)
    at, means = smooth(time, np.c_[np.full(300, 2.0), time])
    np.testing.assert_allclose(means[:, 0], 2.0)
    assert (np.diff(means[:, 1]) > 0).all()
    assert (np.diff(at) >= 0).all()


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (None, r"time='stage' holds names \(early, late\), not numbers: say their order with stages="),
        (["early", "latest"], r"no cell of 'stage' is latest; it has early, late"),
        (["early"], "no cell of 'stage' is of a second stage"),
    ],
)
def test_refuses_what_is_no_order(stages, words):
    with pytest.raises(ValueError, match=words):
        read_times(np.array(["early", "late", ""], dtype=object), "stage", stages)


def test_a_stage_regression_learns_what_the_training_cells_know():
    truth = np.append(np.repeat([0.0, 1.0, 3.0], 20), np.nan)
    space = np.eye(4)[np.searchsorted([0, 1, 3], truth)] * 9
    rows = np.arange(61)
    folds = [(rows[rows % 20 > 0], np.array([40])), (np.arange(1, 20), np.array([20]))]
    found = stage_predictions(space, truth, folds)
    assert found[40] == pytest.approx(3.0, abs=0.3)
    assert found[20] == 0.0  # a fold of one stage knows no other
    assert np.isnan(found[[0, 60]]).all()
