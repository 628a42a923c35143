"""A model whose answer is known: its embedding is the sum of one vector a gene."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from scfm.analysis.perturbation.operations import Change, Ranking
from scfm.analysis.perturbation.reader import Reader
from support import made_vocab


class TokenSums(nn.Module):
    """Hidden states are the vectors of the tokens, whatever stands around them."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = torch.as_tensor(vectors)
        self.width, self.n_layers, self.causal = self.vectors.shape[1], 1, False
        self.embedding_layer, self.embedding_pool = -1, "all"

    def hidden(self, batch, layer):
        return self.vectors[batch.ids]


@pytest.fixture
def additive():
    """``make(vectors) -> Reader`` of cells framed by <cls> and <eos>."""

    def make(vectors, tokens=4096):
        return Reader(TokenSums(vectors), made_vocab(len(vectors) - 4), ([2], [3]), tokens, "cpu")

    return make


@pytest.fixture
def planted(additive):
    """Cells of two states that differ by 20 planted genes of 500; every gene has a random vector of its own."""

    def make(seed=0, n_cells=60, differs=True):
        rng = np.random.default_rng(seed)
        vectors = np.r_[np.zeros((4, 64)), rng.normal(size=(500, 64))]
        gap = rng.normal(size=64)
        planted = np.arange(4, 24) if differs else np.arange(0)
        vectors[planted] += 1.5 * gap / np.linalg.norm(gap) * 4
        state = np.arange(n_cells) % 2
        lists = []
        for cell in range(n_cells):
            rare = 0.8 if state[cell] == 1 else 0.5
            genes = [g for g in range(4, 504) if rng.random() < (rare if g in planted else 0.5)]
            lists.append(np.array(rng.permutation(genes)))
        rank = [Ranking(genes, np.arange(len(genes), 0, -1.0), 504) for genes in lists]
        return SimpleNamespace(
            reader=additive(vectors), rankings=rank, state=state, planted=planted, donors=np.arange(n_cells) // 2 % 6,
            change=Change("delete"),
        )  # fmt: skip

    return make
