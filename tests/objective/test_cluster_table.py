"""The table of clusters against its formula, token by token, and on planted clusters."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scfm.batch import Batch
from scfm.objective.ar import AR, next_tokens
from scfm.objective.cluster_table import SMOOTHING, ClusterTable, fit_clusters
from scfm.objective.mlm import MLM
from scfm.types import Spec
from scfm.vocab import Vocab

VOCAB = Vocab(tuple(f"g{i}" for i in range(30)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})
COUNTS = np.random.default_rng(0).integers(0, 50, (5, 30)).astype(float)
COUNTS[:, :3] = 0


def planted(n_cells: int, seed: int) -> Batch:
    """Cells of two kinds: genes 4 to 16, or 17 to 29; six each."""
    rng = np.random.default_rng(seed)
    rows = [[2, *rng.permutation(np.arange(4, 17) + 13 * (i % 2))[:6], 3] for i in range(n_cells)]
    return Batch(
        ids=torch.tensor(np.concatenate(rows)),
        positions=torch.arange(8).repeat(n_cells),
        boundaries=torch.arange(0, 8 * n_cells + 1, 8, dtype=torch.int32),
        longest=8,
        index=torch.arange(n_cells),
        seed=seed,
    )


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
    batch = planted(200, 0)
    cells = csr_matrix((np.ones(1600), batch.ids.numpy(), batch.boundaries.numpy()), shape=(200, 30))
    counts = fit_clusters(cells, 2, seed=0)
    of_first = counts[:, 4:17].sum(1) / counts[:, 4:].sum(1)
    assert sorted(np.round(of_first, 3)) == [0.0, 1.0]
    np.testing.assert_allclose(counts.sum(), 1600)


@pytest.mark.parametrize("kind", [MLM, AR])
def test_validation_shows_it_between_the_unigram_table_and_the_truth(kind):
    """With planted clusters: below ln 26 of all genes, at the entropy of what is left of one cluster."""
    batch = planted(200, 0)
    cells = csr_matrix((np.ones(1600), batch.ids.numpy(), batch.boundaries.numpy()), shape=(200, 30))
    token_counts = np.bincount(batch.ids.numpy(), minlength=30)
    spec = Spec(VOCAB, 32, token_counts=token_counts, cluster_counts=fit_clusters(cells, 2, seed=0))

    class Silent(torch.nn.Module):
        def forward(self, batch):
            return torch.zeros(batch.n_tokens, 4)

        def logits(self, hidden):
            return torch.zeros(len(hidden), 30)

    found = kind(spec).eval()(Silent(), planted(40, 5))
    assert float(found["clusters_loss"]) < float(found["unigram_loss"]) - 0.3
    assert "clusters_loss" not in kind(spec).train()(Silent(), planted(40, 5))
    assert len(next_tokens(batch)) == 1599
