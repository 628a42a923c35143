"""Self-training clusters: numbers by hand, small clusters that stay, new cells by command."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from scfm.head.clustering.self_training import SelfTraining, sharpen
from scfm.metrics.clusters import leiden_clusters
from scfm.metrics.neighbors import find_neighbors


def made(spec, **options):
    return SelfTraining(spec, **{"width": 4, "gene_components": 8, "min_cluster": 5, "resolution": 0.5, **options})


def test_p_by_hand():
    q = np.array([[0.8, 0.2], [0.4, 0.6]])
    first = np.array([0.64 / 1.2, 0.04 / 0.8])
    np.testing.assert_allclose(sharpen(q)[0], first / first.sum())
    assert (sharpen(q * [1, 0])[:, 1] == 0).all()


def test_q_is_students_t_and_the_loss_is_kl(cells, tiny, spec):
    head = made(spec)
    head.prepare(cells.survey(tiny))
    batch = cells.batch(range(20))
    with torch.no_grad():
        z = head.project(head.state(tiny, batch))
        d = ((z[:, None] - head.places[None]) ** 2).sum(-1)
        q = 1 / (1 + d)
        q = q / q.sum(1, keepdim=True)
        torch.testing.assert_close(head.assign(z), q, atol=1e-4, rtol=1e-3)
        head.train()
        p = head.targets[batch.index]
        kl = (p * (p.clamp(min=1e-12) / q.clamp(min=1e-12)).log()).sum(1)
        used = p.sum(1) > 0
        assert float(head(tiny, batch)["loss"]) == pytest.approx(float(kl[used].mean()), rel=1e-3, abs=1e-5)


def test_training_makes_assignments_surer_and_clusters_stay_those_of_leiden(exercise, tiny, cells, spec):
    head, before, after = exercise(lambda spec: made(spec), tiny, steps=40, rate=1e-3)
    assert after < before
    q = head.predict(tiny, cells.batch(range(len(cells))))["q"].numpy()
    fresh = made(spec)
    fresh.prepare(cells.survey(tiny))
    start = fresh.predict(tiny, cells.batch(range(len(cells))))["q"].numpy()
    assert q.max(1).mean() > start.max(1).mean()
    assert adjusted_rand_score(q.argmax(1), head._first) > 0.7


def test_small_clusters_take_no_part_and_all_small_is_refused(cells, tiny, spec):
    head = made(spec, min_cluster=len(cells) // 2 - 1, resolution=0.3)
    try:
        head.prepare(cells.survey(tiny))
    except ValueError as error:
        assert "lower head.resolution" in str(error)
    else:
        large = head.sizes.numpy() >= head.min_cluster
        p = head.targets.numpy()
        assert (p[:, ~large] == 0).all()
        assert (p[~large[head._first]] == 0).all()
    with pytest.raises(ValueError, match=r"lower head\.resolution"):
        made(spec, min_cluster=1000).prepare(cells.survey(tiny))


def test_it_settles_when_no_label_changes(cells, tiny, spec):
    head = made(spec)
    head.prepare(cells.survey(tiny))
    outputs = {k: v.numpy() for k, v in head.eval().predict(tiny, cells.batch(range(len(cells)))).items()}
    shuffled = np.random.default_rng(0).permutation(len(cells))
    head._called = outputs["q"].argmax(1)
    head._first = np.roll(head._called, 1)  # not the first epoch
    head.update({name: values[shuffled] for name, values in outputs.items()}, {})
    assert bool(head.settled)
    assert float(head.train()(tiny, cells.batch(range(20)))["loss"]) == 0


def test_leiden_finds_blobs_and_repeats_itself(blobs):
    values, labels, _ = blobs
    graph = find_neighbors(values, 15).connectivities()
    found = leiden_clusters(graph, 0.3, seed=1)
    assert adjusted_rand_score(found, labels) > 0.95
    assert (leiden_clusters(graph, 0.3, seed=1) == found).all()
    assert (np.diff(np.bincount(found)) <= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "head.resolution=0"),
        ({"neighbors": 1}, "head.neighbors=1"),
        ({"min_cluster": 0}, "head.min_cluster=0"),
        ({"label": "kind"}, "head.label='kind'"),
    ],
)
def test_refusals(spec, options, message):
    with pytest.raises(ValueError, match=message):
        made(spec, **options)
