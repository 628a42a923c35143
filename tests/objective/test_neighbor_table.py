"""The table of the nearest training cells against its formula in plain loops, and on cells that it has seen."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm.objective.neighbor_table import NEAREST, WEIGHTS, NeighborTable
from tests.objective.planted import planted, presence

POSSIBLE = np.arange(30) >= 3
COUNTS = np.random.default_rng(0).integers(1, 50, 30)


@pytest.mark.parametrize("prefix", [False, True])
def test_equals_its_formula(prefix):
    """Cells of different length, a special token, a target without a cell of its kind nearby."""
    rng = np.random.default_rng(3)
    cells = csr_matrix((rng.random((40, 30)) < rng.uniform(0.1, 0.6, (40, 1))).astype(float))
    table, batch = NeighborTable(POSSIBLE, cells, COUNTS), planted(4, 1)
    visible = torch.from_numpy(np.isin(np.arange(32) % 8, [1, 2, 4, 5])) & torch.from_numpy(POSSIBLE)[batch.ids]
    places, targets = torch.tensor([2, 9, 22, 30]), torch.tensor([7, 20, -100, 3])
    holds = (cells.toarray() > 0) & POSSIBLE
    rarity = np.where(POSSIBLE, np.log(40 / np.maximum(holds.sum(0), 1)), 0)
    share = np.where(POSSIBLE, COUNTS + 1, 0) / np.where(POSSIBLE, COUNTS + 1, 0).sum()
    wanted = 0.0
    for place, target in zip(places.tolist(), targets.tolist(), strict=True):
        if target == -100:
            continue
        last = place if prefix else 8 * (place // 8) + 7
        seen = [int(batch.ids[t]) for t in range(8 * (place // 8), last + 1) if visible[t]]
        cosine = [(holds[k, seen] * rarity[seen] ** 2).sum() / np.sqrt((holds[k] * rarity**2).sum()) for k in range(40)]
        near = np.mean(
            [holds[k] / holds[k].sum() for k in np.argsort(-np.array(cosine), kind="stable")[:NEAREST]], axis=0
        )
        mixed = table.weight * share + (1 - table.weight) * near
        wanted -= np.log(mixed[target] / (1 - mixed[seen].sum()))
    np.testing.assert_allclose(float(table(batch, visible, places, targets, prefix=prefix)), wanted, rtol=1e-4)


def test_cells_of_planted_kinds_trust_their_neighbors_and_random_cells_do_not():
    assert NeighborTable(POSSIBLE, presence(planted(200, 0)), COUNTS).weight <= WEIGHTS[1]
    noise = csr_matrix((np.random.default_rng(1).random((200, 30)) < 0.2).astype(float))
    assert NeighborTable(POSSIBLE, noise, COUNTS).weight >= WEIGHTS[-2]


@pytest.mark.parametrize("n_cells", [0, 1])
def test_without_cells_to_compare_it_is_the_unigram_table(n_cells):
    cells = presence(planted(4, 1))[:n_cells]
    batch = planted(2, 5)
    hidden = torch.zeros(batch.n_tokens, dtype=torch.bool)
    loss = NeighborTable(POSSIBLE, cells, COUNTS)(batch, hidden, torch.tensor([3]), torch.tensor([9]), prefix=False)
    shares = np.where(POSSIBLE, COUNTS + 1, 0)
    np.testing.assert_allclose(float(loss), -np.log(shares[9] / shares.sum()), rtol=1e-5)
