"""The table of clusters against its formula, token by token, and on planted clusters."""

import numpy as np
import pytest
import torch

from scfm.objective.cluster_table import SMOOTHING, ClusterTable, fit_clusters
from tests.objective.planted import planted, presence

COUNTS = np.random.default_rng(0).integers(0, 50, (5, 30)).astype(float)
COUNTS[:, :3] = 0


@pytest.mark.parametrize("prefix", [False, True])
def test_equals_its_formula(prefix):
    possible = np.arange(30) >= 3
    table, batch = ClusterTable(possible, COUNTS), planted(4, 1)
    everywhere = np.where(possible, COUNTS.sum(0) + 1, 0)
    smooth = COUNTS + SMOOTHING * everywhere / everywhere.sum()
    shares, prior = smooth / smooth.sum(1, keepdims=True), smooth.sum(1) / smooth.sum()
    visible = torch.from_numpy(np.isin(np.arange(32) % 8, [1, 2, 4, 5])) & torch.from_numpy(possible)[batch.ids]
    places, targets = torch.tensor([2, 9, 22, 30]), torch.tensor([7, 20, -100, 3])
    wanted = 0.0
    for place, target in zip(places.tolist(), targets.tolist(), strict=True):
        if target == -100:
            continue
        last = place if prefix else 8 * (place // 8) + 7
        seen = [int(batch.ids[t]) for t in range(8 * (place // 8), last + 1) if visible[t]]
        q = prior * np.prod(shares[:, seen], axis=1)
        q /= q.sum()
        wanted -= np.log(q @ shares[:, target] / (1 - q @ shares[:, seen].sum(1)))
    np.testing.assert_allclose(float(table(batch, visible, places, targets, prefix=prefix)), wanted, rtol=1e-4)


def test_finds_planted_clusters():
    counts = fit_clusters(presence(planted(200, 0)), 2, seed=0)
    of_first = counts[:, 4:17].sum(1) / counts[:, 4:].sum(1)
    assert sorted(np.round(of_first, 3)) == [0.0, 1.0]
    np.testing.assert_allclose(counts.sum(), 1600)
