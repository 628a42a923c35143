"""The scIB family: by hand, by invariance, and equal to scib-metrics where that is installed."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples as of_sklearn

from scfm.metrics.integration import batch_variance, graph_connectivity, integration_scores, pcr_comparison
from scfm.metrics.mixing.kbet import acceptance, kbet_per_label
from scfm.metrics.mixing.lisi import cilisi, clisi, ilisi, lisi
from scfm.metrics.mixing.silhouette import bras, isolated_labels, silhouette_samples
from scfm.metrics.neighbors import Neighbors, find_neighbors


def test_silhouette_equals_scikit_learn(blobs):
    embedding, labels, _ = blobs
    np.testing.assert_allclose(silhouette_samples(embedding, labels), of_sklearn(embedding, labels), atol=1e-10)


def test_silhouette_by_hand_with_a_lonely_cell():
    points = np.array([[0.0], [1.0], [4.0]])
    # cell 0: inside 1, outside 4; cell 1: inside 1, outside 3; cell 2 is alone
    np.testing.assert_allclose(silhouette_samples(points, np.array([0, 0, 1])), [3 / 4, 2 / 3, 0])


def test_bras_by_hand():
    # one label, two batches of two cells: angles 0, 90 | 0, 90: inside = 1, other batch = mean(0, 1) = 1/2
    points = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert bras(points, np.zeros(4, int), np.array([0, 0, 1, 1])) == pytest.approx(1 - abs(0.5 - 1) / 1)


def test_bras_without_a_label_of_two_batches_is_missing():
    assert np.isnan(bras(np.eye(4), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])))


def test_isolated_labels_are_those_of_fewest_batches():
    samples = np.array([1.0, 1.0, 0.0, -1.0])
    labels, batch = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    assert isolated_labels(samples, labels, batch) == pytest.approx((0.5 + 0.0) / 2)


def ring(n_cells, k):
    """Each cell's k - 1 followers on a ring, all at distance 1."""
    indices = (np.arange(n_cells)[:, None] + np.arange(k)) % n_cells
    return Neighbors(indices, np.tile(np.r_[0.0, np.ones(k - 1)], (n_cells, 1)))


def test_lisi_of_equal_distances_counts_the_groups():
    near, groups = ring(12, 5), np.arange(12) % 4
    np.testing.assert_allclose(lisi(near, groups), 4)  # four neighbors, one of each group, equal weights
    assert ilisi(near, groups) == pytest.approx(1)
    assert clisi(near, groups) == pytest.approx(0)


def test_lisi_far_away_does_not_underflow():
    near = ring(12, 7)
    far = Neighbors(near.indices, near.distances * 1e6)
    np.testing.assert_allclose(lisi(far, np.arange(12) % 3), 3)


def test_kbet_acceptance_by_hand():
    batch = np.array([0, 1] * 10)
    fair, unfair = np.tile([0, 1], (1, 8)), np.zeros((1, 16), int)  # χ² = 0 and 16 at one degree of freedom
    assert acceptance(np.vstack([fair, unfair]), batch, 0.05) == 0.5


def test_graph_connectivity_by_hand():
    points = np.array([[0.0], [0.1], [50.0], [50.1], [100.0]])
    near = find_neighbors(points, 2)
    # label 0 is in two pieces of two cells, label 1 is one cell
    assert graph_connectivity(near, np.array([0, 0, 0, 0, 1])) == pytest.approx((0.5 + 1) / 2)


def test_batch_variance_equals_regression_on_principal_components(blobs):
    embedding, _, batch = blobs
    centered = embedding - embedding.mean(0)
    components = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
    onehot = np.eye(3)[batch]
    fitted = onehot @ np.linalg.lstsq(onehot, components, rcond=None)[0]
    r2, variance = fitted.var(0) / components.var(0), components.var(0)
    assert batch_variance(embedding, batch) == pytest.approx((r2 * variance).sum() / variance.sum())


def test_pcr_is_never_negative_and_one_when_the_batch_is_gone(blobs):
    embedding, _, batch = blobs
    worse = embedding + 10 * np.eye(3, 8)[batch]
    assert pcr_comparison(embedding, worse, batch) == 0
    gone = embedding - np.stack([embedding[batch == b].mean(0) for b in range(3)])[batch]
    assert pcr_comparison(embedding, gone, batch) == pytest.approx(1)


def test_scores_do_not_depend_on_names_order_or_rotation(blobs):
    embedding, labels, batch = blobs
    first = integration_scores(embedding, labels, batch, embedding)
    order = np.random.default_rng(1).permutation(len(labels))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    names = np.array(["z", "y", "x", "w"], dtype=object)
    again = integration_scores((embedding @ turn)[order], names[labels[order]], batch[order], embedding[order])
    for name, value in first.items():
        assert again[name] == pytest.approx(value, abs=2e-3), name


def test_mixing_is_better_without_batch_shift(blobs):
    embedding, labels, batch = blobs
    apart = integration_scores(embedding + 6 * np.eye(3, 8)[batch], labels, batch, embedding)
    mixed = integration_scores(embedding, labels, batch, embedding)
    for name in ("bras", "ilisi", "kbet", "cilisi", "batch", "total"):
        assert mixed[name] > apart[name], name


def test_total_is_the_published_weighting(blobs):
    found = integration_scores(*blobs, blobs[0])
    bio = np.mean([found[name] for name in ("isolated_labels", "nmi", "ari", "silhouette_label", "clisi")])
    batch = np.mean([found[name] for name in ("bras", "ilisi", "kbet", "graph_connectivity", "pcr")])
    assert found["total"] == pytest.approx(0.4 * batch + 0.6 * bio)


def test_without_batches_or_labels_only_what_can_be_computed(blobs):
    embedding, labels, batch = blobs
    assert set(integration_scores(embedding, labels, None, embedding)) == {
        "bio",
        "silhouette_label",
        "clisi",
        "nmi",
        "ari",
    }
    assert set(integration_scores(embedding, None, batch, embedding)) == {"ilisi", "pcr"}


def test_twins_do_not_crowd_a_cell_out_of_its_own_neighbors():
    near = find_neighbors(np.zeros((50, 2)), 5)
    np.testing.assert_array_equal(near.indices[:, 0], np.arange(50))


def test_cilisi_leaves_small_types_out():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 6])
    batch = np.arange(46) % 2
    embedding = rng.normal(size=(46, 3))
    assert cilisi(embedding, labels, batch) == pytest.approx(cilisi(embedding[:40], labels[:40], batch[:40]))


def test_equal_to_scib_metrics(blobs):
    scib = pytest.importorskip("scib_metrics", reason="scib-metrics is not installed")
    from scib_metrics.nearest_neighbors import NeighborsResults

    embedding, labels, batch = blobs
    embedding = embedding.astype(np.float32)
    near = find_neighbors(embedding, 90)

    def nearest(k):
        return NeighborsResults(indices=near.indices[:, :k], distances=near.distances[:, :k].astype(np.float32))

    theirs = {
        "silhouette_label": scib.silhouette_label(embedding, labels),
        "isolated_labels": scib.isolated_labels(embedding, labels, batch),
        "clisi": scib.clisi_knn(nearest(90), labels),
        "ilisi": scib.ilisi_knn(nearest(90), batch),
        "bras": scib.bras(embedding, labels, batch),
        "kbet": scib.kbet_per_label(nearest(50), batch, labels),
        "graph_connectivity": scib.graph_connectivity(nearest(15), labels),
        "pcr": scib.pcr_comparison(
            embedding, embedding / (1 + np.arange(8, dtype=np.float32)), batch, categorical=True
        ),
        **scib.nmi_ari_cluster_labels_kmeans(embedding, labels),
    }
    ours = integration_scores(embedding, labels, batch, embedding)
    ours["pcr"] = pcr_comparison(embedding, embedding / (1 + np.arange(8)), batch)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-4), name


def test_kbet_without_a_label_of_two_batches_is_missing(blobs):
    embedding, labels, _ = blobs
    assert np.isnan(kbet_per_label(find_neighbors(embedding, 50), labels, labels))
