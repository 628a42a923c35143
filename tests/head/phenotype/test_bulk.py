"""Bulk samples to cells: planted types are recovered, an outcome at random says "no cells"."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfm
from scfm.head.phenotype.bulk_fit import align, fit_bulk, set_discovery
from scfm.metrics.samples import auc
from support import SMALL, command

WITHOUT_MODEL = tuple(part for part in SMALL if not part.startswith(("model.", "data.tokens")))


def pseudo_bulks(cells, enriched, effect=0.3, n=60, seed=0):
    """Sums of 150 cells; in cases, a share of them is drawn from one type."""
    rng = np.random.default_rng(seed)
    own = np.flatnonzero(cells.obs["cell_type"] == enriched)
    rows, case = [], np.arange(n) % 2
    for i in range(n):
        drawn = rng.choice(cells.n_obs, 150)
        if case[i]:
            drawn[: int(150 * effect)] = rng.choice(own, int(150 * effect))
        rows.append(np.asarray(cells.X[drawn].sum(axis=0)).ravel())
    bulk = ad.AnnData(np.array(rows, dtype=np.float32), var=cells.var)
    bulk.obs_names = [f"bulk{i}" for i in range(n)]
    bulk.obs["outcome"] = pd.Categorical(np.where(case, "case", "control"))
    bulk.obs["random"] = pd.Categorical(np.where(rng.permutation(case), "a", "b"))
    bulk.obs["cohort"] = pd.Categorical([f"cohort {i % 3}" for i in np.arange(n) // 2])
    bulk.obs["one"] = pd.Categorical(["same"] * n)
    bulk.obs["rare"] = pd.Categorical(np.where(np.arange(n) < 3, "a", "b"))
    return bulk


@pytest.fixture(scope="module")
def bulk(donors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk")
    pseudo_bulks(donors.cells, "type 2").write_h5ad(folder / "bulk.h5ad")
    command(
        "prepare", f"input={folder / 'bulk.h5ad'}", f"output={folder / 'store'}", "workers=1",
        f"init_from={donors.checkpoint}", "obs=[outcome,random,cohort,one,rare]",
    )  # fmt: skip
    return folder


def finetune(donors, bulk, output, *options):
    return command(
        "finetune", "head=phenotype/bulk", f"init_from={donors.checkpoint}", f"store={bulk / 'store'}",
        f"output={output}", "adapt=frozen", "trainer.max_steps=2", "validate_every=2", "data.max_length=64",
        "data.tokens_per_batch=2048", "data.group=null", "head.gene_components=16", "report=false", *WITHOUT_MODEL,
        *options,
    )  # fmt: skip


def test_cells_of_a_planted_type_are_found_by_command_and_api(donors, bulk, tmp_path):
    finetune(donors, bulk, tmp_path / "run", "head.label=outcome", "head.cohort=cohort")
    best = tmp_path / "run/checkpoints/best.ckpt"
    command("embed", f"init_from={best}", f"input={donors.folder / 'cells.h5ad'}", f"output={tmp_path / 'out.h5ad'}",
            "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")  # fmt: skip
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    own = (found.obs["cell_type"] == "type 2").to_numpy()
    assert auc(own, -found.obs["scfm_phenotype_score"].to_numpy()) > 0.85  # the second class is the control
    about = found.uns["scfm"]["X_scfm"]["head"]
    assert about["passed_to_cells"] and about["p_cohorts_left_out"] < 0.05 and about["positive"] == "control"
    called = found.obs["scfm_phenotype"].astype(str)
    assert (called[own] == "negative").mean() > (called[~own] == "negative").mean() + 0.3
    again = ad.read_h5ad(donors.folder / "cells.h5ad")
    scfm.load(best).annotate(again)
    np.testing.assert_allclose(again.obs["scfm_phenotype_score"], found.obs["scfm_phenotype_score"], atol=1e-3)


def test_an_outcome_at_random_gives_no_cells(donors, bulk, tmp_path, caplog):
    finetune(donors, bulk, tmp_path / "run", "head.label=random")
    cells = ad.read_h5ad(donors.folder / "cells.h5ad")
    scfm.load(tmp_path / "run/checkpoints/best.ckpt").annotate(cells)
    assert set(cells.obs["scfm_phenotype"]) == {"none"} and cells.obs["scfm_phenotype_score"].isna().all()
    assert "no cells" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("head.label=one",), "has 1 classes; expected two"),
        (("head.label=cohort",), "has 3 classes; expected two"),
        (("head.label=outcome", "head.cohort=site"), "head.cohort='site'"),
        (("head.label=rare",), "bulk samples of the two classes; expected at least 5"),
        (("head.label=outcome", "head.fdr=1"), "head.fdr"),
        (("head.label=outcome", "head.permutations=0"), "head.permutations=0"),
    ],
)
def test_refusals(donors, bulk, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(donors, bulk, tmp_path / "run", *options, "data.unseen=ignore")


def test_cells_get_the_covariance_of_the_bulk_samples():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(4000, 4)) @ rng.normal(size=(4, 4)) + 3
    wanted = np.diag([4.0, 1.0, 1.0, 0.5])
    low = align(cells, wanted)
    np.testing.assert_allclose(low.mean(axis=0), 0, atol=1e-8)
    same = align(cells, np.cov(cells.T) * 0.7 + 0.3 * np.trace(np.cov(cells.T)) / 4 * np.eye(4))
    np.testing.assert_allclose(same, cells - cells.mean(axis=0), atol=1e-2)


def test_the_dual_regression_is_the_plain_one_and_cohort_means_do_not_matter():
    rng = np.random.default_rng(0)
    truth, cohorts = np.arange(40) % 2, (np.arange(40) // 2) % 2
    states = rng.normal(size=(40, 90)) + truth[:, None] * (np.arange(90) < 5)
    one = fit_bulk(states, truth, cohorts, penalty=1.0, permutations=20, seed=0)
    shifted = fit_bulk(states + 100 * cohorts[:, None], truth, cohorts, penalty=1.0, permutations=20, seed=0)
    np.testing.assert_allclose(one.weight, shifted.weight, atol=1e-4)
    assert one.auc > 0.65 and one.p < 0.1
    from sklearn.linear_model import LogisticRegression

    centered = states - np.stack([states[cohorts == c].mean(0) for c in (0, 1)])[cohorts]
    scale = (centered**2).sum(1).mean()
    plain = LogisticRegression(C=1 / scale, class_weight="balanced", tol=1e-6, max_iter=500).fit(centered, truth)
    assert np.corrcoef(plain.coef_[0], one.weight)[0, 1] > 0.999


def test_discovery_by_hand():
    null = np.array([[0.1, -0.2], [1.5, 0.3], [0.2, 0.1], [0.4, -0.1]])
    # |score| 3 and 2 lie above every null score; at 1 there is half a null cell among three
    called = set_discovery(np.array([3.0, -2.0, 1.0, 0.2]), null, 0.1)
    assert called.tolist() == ["positive", "negative", "none", "none"]
    assert set_discovery(np.array([3.0, -2.0, 1.0, 0.2]), null, 0.2).tolist() == [
        "positive",
        "negative",
        "positive",
        "none",
    ]
    assert set(set_discovery(np.full(4, 0.01), null, 0.1)) == {"none"}
