"""Batches and backbones small enough to check by hand."""

import numpy as np
import pytest
import torch

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.types import Spec
from scfm.vocab import Vocab

SPECIALS = {"pad": 0, "mask": 1, "cls": 2, "eos": 3}


@pytest.fixture
def vocab() -> Vocab:
    return Vocab(tuple(f"g{i}" for i in range(200)), SPECIALS)


@pytest.fixture
def spec(vocab) -> Spec:
    return Spec(vocab, 32, token_counts=np.arange(len(vocab)) ** 2)


@pytest.fixture
def cells():
    """Packed cells ``<cls> genes <eos>``; a length counts both."""

    def cells(lengths, seed=0, n_tokens=200) -> Batch:
        rng = np.random.default_rng(seed)
        rows = [np.r_[2, rng.choice(np.arange(4, n_tokens), n - 2, replace=False), 3][:n] for n in lengths]
        return Batch(
            ids=torch.from_numpy(np.concatenate(rows)),
            positions=torch.cat([torch.arange(n) for n in lengths]),
            boundaries=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
            longest=max(lengths),
            index=torch.arange(len(lengths)),
            seed=seed,
        )

    return cells


@pytest.fixture
def backbone(vocab):
    def backbone(causal, **options) -> Backbone:
        torch.manual_seed(0)
        sizes = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 256, "dropout": 0.0}
        return Backbone(options.pop("vocab", vocab), causal, **{**sizes, **options})

    return backbone
