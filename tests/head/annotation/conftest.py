"""A backbone small enough to reason about, and cells whose type shows in their tokens."""

import numpy as np
import pytest
import torch
from torch import nn

from scfm.batch import Batch
from scfm.types import Spec
from scfm.vocab import Vocab

N_GENES, WIDTH = 30, 16


class BagBackbone(nn.Module):
    """Each token's embedding, unmixed."""

    width, causal, n_positions, n_layers = WIDTH, False, 64, 1
    embedding_layer, embedding_pool = -1, "mean"

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(N_GENES + 1, WIDTH)

    def hidden(self, batch, layer):
        return self.table(batch.ids)

    def forward(self, batch):
        return self.table(batch.ids)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return BagBackbone()


@pytest.fixture
def make_spec():
    def make(counts=(20, 10, 5), label="cell_type", **more):
        names = tuple(f"type {i}" for i in range(len(counts)))
        vocab = Vocab(("<pad>", *(f"ENSG{i}" for i in range(N_GENES))), {"pad": 0})
        return Spec(
            vocab,
            WIDTH,
            {label: names, **more.pop("classes", {})},
            n_cells=sum(counts),
            class_counts={label: np.array(counts), **more.pop("class_counts", {})},
        )

    return make


@pytest.fixture
def make_batch():
    """Cells of class c draw two thirds of their tokens from their class's ten genes."""

    def make(codes, seed=0, missing=()):
        rng = np.random.default_rng(seed)
        codes = np.asarray(codes)
        cells = []
        for code in codes:
            own = 1 + 10 * code + rng.permutation(10)[: rng.integers(4, 10)]
            others = 1 + rng.permutation(N_GENES)[: len(own) // 2]
            cells.append(np.unique(np.concatenate([own, others])))
            rng.shuffle(cells[-1])
        lengths = np.array([len(cell) for cell in cells])
        truth = codes.copy()
        truth[list(missing)] = -1
        return Batch(
            ids=torch.from_numpy(np.concatenate(cells)).long(),
            positions=torch.cat([torch.arange(n) for n in lengths]),
            boundaries=torch.from_numpy(np.concatenate([[0], lengths.cumsum()])).int(),
            longest=int(lengths.max()),
            index=torch.arange(len(codes)),
            obs={"cell_type": torch.from_numpy(truth).long()},
            seed=seed,
        )

    return make
