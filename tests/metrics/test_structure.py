import numpy as np
import pytest

from scfm.evaluation.correction import batch_components
from scfm.evaluation.methods.expression import read_expression
from scfm.metrics.structure import consensus_distances, ksim, neighbor_overlap, scgraph


def test_overlap_of_rotated_and_of_shuffled_cells():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert neighbor_overlap(points, points @ turn) == pytest.approx(1)
    assert neighbor_overlap(points, rng.permutation(points)) < 0.3


def test_pseudo_batches_keep_their_neighbors_only_without_correction():
    rng = np.random.default_rng(1)
    points, pseudo = rng.normal(size=(300, 4)), rng.integers(3, size=300)
    assert neighbor_overlap(points, points + 5 * np.eye(3, 4)[pseudo], pseudo) == pytest.approx(1)  # inside batches


def test_ksim_of_pure_and_mixed_neighborhoods():
    points = np.repeat([[0.0, 0], [100, 0]], 50, axis=0) + np.random.default_rng(0).normal(size=(100, 2))
    assert ksim(points, np.repeat(["a", "b"], 50)) == 1
    assert ksim(points, np.tile(["a", "b"], 50)) < 0.1


def test_scgraph_prefers_the_geometry_inside_batches(make_adata):
    rng = np.random.default_rng(0)
    adata = make_adata(900)
    labels = np.repeat(np.arange(5), 180)
    gradual = np.column_stack([np.exp(np.outer(labels, np.ones(30)) * 0.5), rng.gamma(1, 1, (900, 90))])
    adata.X = rng.poisson(gradual).astype(np.float32)
    consensus = consensus_distances(batch_components(read_expression(adata), labels, np.arange(900) % 3), 5)
    line, torn = np.column_stack([labels, 0 * labels]), np.eye(5)[[3, 0, 4, 1, 2]][labels] * [1, 9, 2, 5, 3]
    noise = rng.normal(scale=0.01, size=(900, 1))
    good, bad = scgraph(line + noise, labels, consensus), scgraph(torn + noise, labels, consensus)
    assert good["scgraph"] > 0.9 > bad["scgraph"]
    assert good["scgraph_spearman"] > bad["scgraph_spearman"]


def test_scgraph_is_missing_when_batches_are_small(make_adata):
    expression = read_expression(make_adata())
    labels = np.arange(240) % 3
    consensus = consensus_distances(batch_components(expression, labels, np.arange(240) // 60), 3)
    assert np.isnan(scgraph(np.eye(3)[labels], labels, consensus)["scgraph"])
