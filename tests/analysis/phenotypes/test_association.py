"""Neighborhood abundance: sums, nulls, planted regions, and refusals."""

import numpy as np
import pytest
from scipy.stats import kstest

from scfm.analysis.phenotypes.neighborhoods import associate, follows_batch, neighborhood_abundance
from scfm.inference.model import load
from scfm.metrics.neighbors import find_neighbors
from support import command


def walk(n_samples=20, cells=30, shift=0.0, seed=0):
    """Two blobs of cells; samples of label 1 have more of the second."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(n_samples), cells)
    truth = np.arange(n_samples) % 2
    second = rng.random(len(place)) < 0.3 + shift * truth[place]
    values = rng.normal(size=(len(place), 5)) + 6 * second[:, None]
    graph = find_neighbors(values, 15).connectivities()
    return (*neighborhood_abundance(graph, place, n_samples), truth, second)


def test_walks_end_somewhere_and_samples_count_alike():
    abundance, steps, _, _ = walk()
    np.testing.assert_allclose(abundance.sum(axis=1), 1)
    assert steps >= 1


def test_a_planted_region_is_found_with_its_sign():
    abundance, _, truth, second = walk(shift=0.4)
    found = associate(abundance, truth, permutations=200)
    assert found.p < 0.02
    assert found.r[second].mean() > 0.3 and found.r[~second].mean() < -0.3
    assert (found.fdr[second] < 0.1).mean() > 0.8


def test_p_is_uniform_without_an_association():
    abundance, _, _, _ = walk()
    rng = np.random.default_rng(0)
    values = [associate(abundance, rng.permutation(np.arange(20) % 2), permutations=60, seed=i).p for i in range(60)]
    assert kstest(values, "uniform").pvalue > 0.01


def test_a_covariate_that_is_the_label_leaves_nothing():
    abundance, _, truth, _ = walk(shift=0.4)
    other = truth + np.random.default_rng(0).normal(0, 0.01, 20)
    assert associate(abundance, truth, covariates=other[:, None], permutations=100).p > 0.02


def test_neighborhoods_of_one_batch_are_dropped():
    rng = np.random.default_rng(0)
    abundance = rng.normal(1, 0.1, (16, 200))
    batch = np.arange(16) // 2
    abundance[batch == 3, :10] += 30
    dropped = follows_batch(abundance, batch)
    assert dropped[:10].all() and dropped[10:].mean() < 0.2
    assert not follows_batch(abundance, np.zeros(16, dtype=int)).any()


def test_too_few_samples_and_one_label_are_refused():
    with pytest.raises(ValueError, match="9 samples; expected at least 10"):
        associate(np.ones((9, 5)), np.arange(9))
    with pytest.raises(ValueError, match="all samples have one label"):
        associate(np.random.default_rng(0).random((12, 5)), np.ones(12))


def test_by_command_and_api(cohort, tmp_path):
    said = command(
        "analyse", "analysis=association", f"init_from={cohort.checkpoint}", f"input={cohort.file}",
        f"output={tmp_path / 'out'}", "analysis.label=response", "analysis.types=cell_type", "analysis.batch=batch",
        "analysis.permutations=100",
    )  # fmt: skip
    assert "p = " in said[0] and (tmp_path / "out/cells.parquet").is_file()
    cells = cohort.cells.copy()
    cells.obs["age"] = cells.obs["donor"].cat.codes * 1.0
    result = load(cohort.checkpoint).analyse(
        "association", cells, label="age", covariates=["age"], types="cell_type", within=True, permutations=50
    )
    assert np.isnan(result.tables["cells"]["scfm_association"]).sum() == 0
    assert {"rho_of_its_share", "p_of_its_share"} <= set(result.tables["by_type"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "cell_type"}, "expected two, or numbers"),
        ({"label": "pseudotime"}, "the label is not constant"),
        ({"label": "response", "min_cells": 27}, "samples; expected at least 10"),
        ({"label": "response", "neighbors": 1}, "analysis.neighbors=1"),
        ({"label": "response", "within": True}, "give analysis.types"),
    ],
)
def test_refusals(cohort, options, message):
    with pytest.raises(ValueError, match=message):
        load(cohort.checkpoint).analyse("association", cohort.cells, **options)
