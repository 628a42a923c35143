"""Small vocabularies, batches and backbones."""

import numpy as np
import pytest
import torch

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab

SMALL = {"layers": 2, "width": 32, "heads": 2, "feedforward": 64, "positions": 64, "dropout": 0.0}


@pytest.fixture
def vocab() -> Vocab:
    return Vocab(tuple(f"g{i}" for i in range(60)), {"pad": 0, "mask": 1, "cls": 2, "eos": 3})


@pytest.fixture
def pack():
    def pack(lengths, seed=0, high=60) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return Batch(
            ids=torch.randint(4, high, (sum(lengths),), generator=generator),
            positions=torch.cat([torch.arange(n) for n in lengths]),
            boundaries=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
            longest=max(lengths),
            index=torch.arange(len(lengths)),
            seed=seed,
        )

    return pack


@pytest.fixture
def small(vocab):
    def small(causal, **options) -> Backbone:
        torch.manual_seed(0)
        return Backbone(vocab, causal, **{**SMALL, **options})

    return small
