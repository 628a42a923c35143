"""Distances to classes in the state: the definition, ranks of calibration cells, saved; older heads stay."""

import numpy as np
import pytest
import torch

from scfm.head.annotation.label_layer import LabelLayer
from scfm.head.annotation.state_distance import MIN_CELLS, OWN, SHRINK, StateDistance
from scfm.metrics.annotation import unknown_auroc
from scfm.types import Spec
from support import made_vocab


def made(n=300, seed=0, classes=3):
    """Classes 0 to 2 along two axes; class 3 beside class 0 along a third, which no classifier of the others reads."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    centers = np.array([[0, 0, 0, 0], [6, 0, 0, 0], [0, 6, 0, 0], [0, 0, 5, 0.0]])
    return np.column_stack([rng.normal(size=(n, 2)), centers[truth] + rng.normal(size=(n, 4))]).astype(
        np.float32
    ), truth


def fitted():
    distance = StateDistance(4, slice(2, 6))
    distance.fit(*made())
    return distance


def test_it_is_the_distance_of_mahalanobis_to_the_nearest_class():
    states, truth = made()
    values = states[:, 2:].astype(float)
    means = np.stack([values[truth == code].mean(axis=0) for code in range(3)])
    rest = values - means[truth]
    common = rest.T @ rest / (300 - 3)
    floor = SHRINK * np.trace(common) / 4 * np.eye(4)
    expected = np.full(20, np.inf)
    for code in range(3):
        n = (truth == code).sum()
        own = rest[truth == code].T @ rest[truth == code] / n
        precision = np.linalg.inv((1 - SHRINK) * (own * n + common * OWN) / (n + OWN) + floor)
        gap = made(20, 1)[0][:, 2:] - means[code]
        expected = np.minimum(expected, np.einsum("ni,ij,nj->n", gap, precision, gap))
    np.testing.assert_allclose(fitted().distance(made(20, 1)[0]), expected, rtol=1e-4)


def test_a_near_relative_that_scores_cannot_tell_is_unfamiliar():
    distance = fitted()
    distance.calibrate(made(100, 2)[0])
    states, truth = made(400, 3, classes=4)
    assert unknown_auroc(distance.rate(states), truth < 3) > 0.95


def test_new_cells_of_known_classes_are_ranked_evenly_and_strangers_by_how_far_they_are():
    distance = fitted()
    own = distance.calibrate(made(400, 2)[0])
    new = distance.rate(made(2000, 4)[0])
    assert new.mean() == pytest.approx(0.5, abs=0.05)
    assert np.quantile(own, 0.05) == pytest.approx(0.05, abs=0.01)
    away = np.zeros((4, 6), dtype=np.float32)
    away[:, 4] = [10, 20, 40, 80]  # beyond all calibration cells
    rated = distance.rate(away)
    assert (np.diff(rated) < 0).all()
    assert 0 < rated[-1] < rated[0] < 0.01


def test_columns_before_the_components_do_not_count():
    distance = fitted()
    states = made(50, 5)[0]
    moved = states.copy()
    moved[:, :2] += 100
    np.testing.assert_array_equal(distance.distance(moved), distance.distance(states))


def test_missing_labels_and_classes_do_not_count():
    states, truth = made()
    one, two = fitted(), StateDistance(4, slice(2, 6))
    two.fit(np.vstack([states, states + 50]), np.append(truth, np.full(300, -1)))
    np.testing.assert_array_equal(one.means[:3], two.means[:3])
    assert two.means[3].isnan().all()


def test_once_calibrated_the_cells_of_calibration_move_nothing():
    distance = fitted()
    distance.calibrate(made(100, 2)[0])
    before = distance.means.clone()
    distance.fit(*made(100, 2))
    torch.testing.assert_close(distance.means, before, equal_nan=True)


@pytest.mark.parametrize("n", [MIN_CELLS - 1, 0])
def test_few_calibration_cells_leave_it_to_the_scores(n):
    distance = fitted()
    assert distance.calibrate(made(n, 2)[0]) is None
    assert not distance.calibrated


def make_layer(**options):
    spec = Spec(made_vocab(10), 2, {"type": ("a", "b", "c", "d")}, class_counts={"type": np.full(4, 9)})
    return LabelLayer(spec, "type", 6, hidden=0, dropout=0.0, class_weights=False, blocks=(2, 4), **options)


def test_a_head_of_before_decides_by_its_scores():
    layer, (states, truth) = make_layer(), made(200)
    layer.regress(states, truth)
    with torch.no_grad():
        logits = layer.eval()(torch.from_numpy(states)).numpy()
    layer.calibrate(logits, truth, 0.05)
    added = ("distance.", "limit")
    old = {name: value for name, value in layer.state_dict().items() if not name.startswith(added)}
    again = make_layer()
    again.load_state_dict(old, strict=True)
    np.testing.assert_array_equal(again.name(logits, states).novelty, layer.name(logits).novelty)


def test_a_layer_tells_a_near_relative_better_than_by_its_scores_and_keeps_known_cells():
    layer, (states, truth) = make_layer(), made(400)
    layer.regress(states, truth)
    layer.distance.fit(states, truth)

    def logits(values):
        with torch.no_grad():
            return layer.eval()(torch.from_numpy(values)).numpy()

    held, own = made(400, 6)
    found = layer.calibrate(logits(held), own, 0.05, held)
    assert found["coverage"] == pytest.approx(0.95, abs=0.02)
    new, kind = made(400, 7, classes=4)
    names = layer.name(logits(new), new).names
    both, scores = (unknown_auroc(-layer.name(logits(new), given).novelty, kind < 3) for given in (new, None))
    assert both > scores + 0.1
    assert (names[kind < 3] == "unknown").mean() < 0.12
    again = make_layer()
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again.name(logits(new), new).novelty, layer.name(logits(new), new).novelty)


def test_sets_of_names_are_written_where_a_coverage_is_asked_for():
    layer, (states, truth) = make_layer(coverage=0.9), made(400)
    layer.regress(states, truth)

    def logits(seed):
        with torch.no_grad():
            return 0.15 * layer.eval()(torch.from_numpy(made(400, seed)[0])).numpy()  # unsure

    layer.calibrate(logits(6), made(400, 6)[1], 0.05)
    sets = layer.name(logits(7)).columns("type")["scfm_type_set"]
    held = ["abcd"[code] in own.split("|") for code, own in zip(made(400, 7)[1], sets, strict=True)]
    assert np.mean(held) >= 0.87
    assert "scfm_type_set" not in make_layer().name(logits(7)).columns("type")
