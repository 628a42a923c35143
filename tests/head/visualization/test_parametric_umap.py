"""The map: new cells land in it alone, its losses by hand, its draws by weight."""

import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm.head.visualization.edges import Edges
from scfm.head.visualization.parametric_umap import ParametricUMAP, cross_entropy
from scfm.head.visualization.umap_layout import density_sample, net_umap
from scfm.metrics.neighbors import find_neighbors
from scfm.metrics.umap import curve

MAKERS = {
    "regression": lambda spec: ParametricUMAP(spec, gene_components=8, neighbors=8, sample=50, polish=10, warm_up=20),
    "cross_entropy": lambda spec: ParametricUMAP(spec, form="cross_entropy", gene_components=0, neighbors=8, warm_up=0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_trains_saves_loads_projects(name, exercise, tiny, cells):
    weights = {key: value.clone() for key, value in tiny.state_dict().items()}
    head, before, after = exercise(MAKERS[name], tiny, steps=100)
    assert after < before
    assert all(torch.equal(value, weights[key]) for key, value in tiny.state_dict().items())
    outputs = {key: value.numpy() for key, value in head.predict(tiny, cells.batch(range(120))).items()}
    assert head.write(outputs).obsm["X_scfm_umap"].shape == (120, 2)
    assert head.summarize(outputs, {})["trustworthiness"] > 0.7  # of a map at random: 0.5
    assert "old map" in head.write(outputs).uns["projection"]


def test_regression_is_the_mean_squared_error_of_scaled_coordinates(spec, cells, tiny):
    head = ParametricUMAP(spec, gene_components=8, neighbors=8, decay=0.0, warm_up=0)
    train = np.arange(120) < 100
    head.prepare(cells.survey(tiny, train))
    batch = cells.batch([1, 5, 110])
    metrics = head(tiny, batch)
    found = head.predict(tiny, batch)["map"][:2].numpy()
    layout = head.layout.numpy()[[1, 5]]
    unit = np.nanstd(head.layout.numpy(), axis=0).max() / 15
    assert metrics["loss"].item() == pytest.approx((((found - layout) / unit) ** 2).mean(), rel=1e-4)
    assert metrics["n_targets"] == 2
    decayed = ParametricUMAP(spec, gene_components=8, neighbors=8, decay=0.5, warm_up=0)
    decayed.load_state_dict(head.state_dict())
    decayed.layout, decayed.table = head.layout, head.table
    squares = sum(w.square().sum() for n, w in head.network.named_parameters() if n.endswith("weight"))
    extra = decayed(tiny, batch)["loss"] - metrics["loss"]
    assert extra.item() == pytest.approx(0.5 * squares.item() / 200, rel=1e-3)


def test_the_backbone_reads_next_to_nothing_where_the_map_is_of_gene_components(spec, cells, tiny):
    head = ParametricUMAP(spec, gene_components=8, neighbors=8, warm_up=5)
    head.prepare(cells.survey(tiny))
    batch = cells.batch(range(5))
    assert head.view(batch).longest == 3
    found = head.predict(None, batch)
    np.testing.assert_allclose(found["state"], head.components.transform(cells.ragged(range(5))), atol=1e-5)
    assert ParametricUMAP(spec, gene_components=0).view(batch) is batch


def test_cross_entropy_by_hand():
    here, near = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    far = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 4.0], [3.0, 1.0]]])
    a, b, weight = 1.5, 0.9, np.array([2.0, 0.5])

    def q(squared):
        return 1 / (1 + a * squared**b)

    losses = [
        weight[0] * (-np.log(q(25)) - np.log(1 - q(1)) - np.log(1 - q(4))),
        weight[1] * (-np.log(q(1)) - np.log(1 - q(9)) - np.log(1 - q(4))),
    ]
    found = cross_entropy(here, near, far, torch.tensor(weight), torch.tensor([a, b]))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-3)


def test_neighbors_are_drawn_by_weight():
    graph = csr_matrix(np.array([[0, 3.0, 1.0], [3.0, 0, 0], [0, 0, 0]]))
    edges = Edges(graph, np.array([10, 20, 30]))
    index = torch.tensor([20, 10, 30, 5, 99]).repeat(2000)
    cells, others, weight = edges.draw(index, torch.Generator().manual_seed(0))
    assert set(index[cells].tolist()) == {10, 20}  # 30 has no edge, 5 and 99 are not in the graph
    assert (others[index[cells] == 20] == 0).all()
    assert (others[index[cells] == 10] == 1).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert weight[index[cells] == 10][0] == 4


def test_sparse_regions_are_sampled_more():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.1, (900, 2)), rng.normal(20, 3, (100, 2))])
    chosen = density_sample(points, 100, seed=1)
    assert len(np.unique(chosen)) == 100
    assert (chosen >= 900).mean() > 0.5


def test_the_layout_follows_from_the_seed():
    points = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
    options = {"sample": 45, "neighbors": 6, "min_dist": 0.5, "polish": 5}
    np.testing.assert_array_equal(net_umap(points, seed=3, **options), net_umap(points, seed=3, **options))


def test_the_graph_is_umaps():
    """Weights of the 15-NN graph and the curve, equal to umap-learn's own (float32 there)."""
    simplicial = pytest.importorskip("umap.umap_")
    points = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    near = find_neighbors(points, 15)
    theirs, _, _ = simplicial.fuzzy_simplicial_set(
        points, 15, np.random.RandomState(0), "euclidean", knn_indices=near.indices,
        knn_dists=near.distances.astype(np.float32),
    )  # fmt: skip
    assert abs(near.connectivities() - theirs).max() < 1e-5
    assert curve(0.5) == pytest.approx(simplicial.find_ab_params(1.0, 0.5))


def test_a_handful_of_cells_has_no_trustworthiness(spec):
    head = ParametricUMAP(spec)
    found = head.summarize({"map": np.zeros((2, 2)), "state": np.zeros((2, 4))}, {})
    assert np.isnan(found["trustworthiness"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"form": "tsne"}, "head.form='tsne'"),
        ({"sample": 70}, "head.sample=70; expected at least 5 times head.neighbors=15"),
        ({"neighbors": 1}, "head.neighbors=1"),
        ({"min_dist": -0.1}, "min_dist=-0.1"),
    ],
)
def test_refuses_numbers_out_of_range(spec, wrong, words):
    with pytest.raises(ValueError, match=words):
        ParametricUMAP(spec, **wrong)


def test_too_few_cells_are_refused():
    with pytest.raises(ValueError, match="9 cells are too few for 15 neighbors"):
        net_umap(np.zeros((9, 3)), sample=75, neighbors=15, min_dist=0.5, polish=1, seed=0)


def test_without_umap_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"pip install .scfm-framework\[evaluate\]"):
        net_umap(np.zeros((90, 3)), sample=75, neighbors=15, min_dist=0.5, polish=1, seed=0)
