"""Too little and too much correction, on made-up cells of which everything is known."""

import numpy as np
import pytest

from scfm.evaluation.correction import pseudo_kept
from scfm.evaluation.methods import baselines as baseline
from scfm.evaluation.simulate import grid, simulate
from scfm.metrics.correction import lone_purity, probe_auc


@pytest.fixture(scope="module")
def table():
    pytest.importorskip("harmonypy")
    methods = {name: baseline.BASELINES[name].make for name in ("harmony", "label_onehot")}
    found = grid(methods, batch=(0.0, 1.0), biology=(1.5,), n_cells=300)
    return found.set_index(["batch", "method"])


def test_a_batch_effect_is_seen_and_its_removal_too(table):
    assert table.loc[(0.0, "PCA"), "batch_auc"] < 0.65
    assert table.loc[(1.0, "PCA"), "batch_auc"] > 0.9
    assert table.loc[(1.0, "harmony"), "batch_auc"] < table.loc[(1.0, "PCA"), "batch_auc"] - 0.2
    assert table.loc[(1.0, "harmony"), "cilisi"] > table.loc[(1.0, "PCA"), "cilisi"]


def test_labels_alone_win_the_total_and_are_found_out(table):
    """What knows nothing but the types beats every method by the total score, and has lost all else."""
    gamed, honest = table.loc[(1.0, "label_onehot")], table.loc[(1.0, "harmony")]
    assert gamed["total"] > honest["total"]
    assert gamed["condition_auc"] < honest["condition_auc"] - 0.2
    assert gamed["finer_ari"] < honest["finer_ari"] - 0.1
    assert gamed["kept_neighbors"] < honest["kept_neighbors"] - 0.1
    assert gamed["pseudo_kept"] < honest["pseudo_kept"] - 0.1


def test_doing_nothing_moves_nothing():
    cells = simulate(batch=1.0, biology=1.0, n_cells=200)
    kept = pseudo_kept(lambda part, pieces: part.principal_components(seed=0), cells.expression, cells.batch)
    assert kept == 1.0


def test_a_type_of_one_batch_that_is_drowned_loses_its_purity():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(["A", "lone"], dtype=object), 60)
    batch = np.array(["one", "two"], dtype=object)[np.r_[np.arange(60) % 2, np.zeros(60, dtype=int)]]
    apart = np.r_[np.zeros(60), np.full(60, 9.0)][:, None] + rng.normal(size=(120, 4))
    drowned = rng.normal(size=(120, 4))
    assert lone_purity(apart, labels, batch) == 1.0
    assert 0.3 < lone_purity(drowned, labels, batch) < 0.65
    assert np.isnan(lone_purity(apart, labels, np.tile(np.array(["one", "two"]), 60)))


def test_probe_needs_two_groups_of_ten_in_a_type():
    values, labels = np.random.default_rng(0).normal(size=(60, 3)), np.repeat(["A"], 60)
    groups = np.array(["", "x", "y"], dtype=object)[np.r_[np.zeros(5, int), np.ones(46, int), np.full(9, 2)]]
    assert np.isnan(probe_auc(values, groups, labels))
    known = np.array(["x", "y"], dtype=object)[np.arange(60) % 2]
    assert probe_auc(np.c_[values, np.arange(60) % 2], known, labels) == 1.0


def test_the_simulator_says_the_truth():
    cells = simulate(batch=0.5, biology=1.0, n_cells=400, seed=3)
    assert set(cells.batch[cells.label == "lone"]) == {"batch 0"}
    sizes = [int((cells.batch == name).sum()) for name in ("batch 0", "batch 2")]
    assert sizes[1] < sizes[0] / 2
    again = simulate(batch=0.5, biology=1.0, n_cells=400, seed=3)
    assert (cells.expression.counts != again.expression.counts).nnz == 0
