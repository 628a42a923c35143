"""Depth read from an embedding: all of it, none of it, too few cells."""

import numpy as np
import torch

from scfm.data.module import CellData
from scfm.store.token_store import TokenStore
from scfm.training import depth
from scfm.training.depth import depth_r2


class Fixed(torch.nn.Module):
    """A backbone whose embeddings are given."""

    width = 3


def test_r2_of_embeddings_that_are_depth_and_of_noise(made_store, monkeypatch):
    data = CellData(TokenStore.open(made_store), val=0.5, test=0.0)
    lengths = np.asarray(data.store.lengths)
    noise = np.random.default_rng(0).normal(size=(len(data.store), 3))
    backbone = Fixed().train()
    known = {"depth": np.stack([2.0 * lengths, noise[:, 0], noise[:, 1]], axis=1), "noise": noise}
    found = {}
    for name, values in known.items():
        monkeypatch.setattr(depth, "embeddings", lambda backbone, data, rows, device, values=values: values[rows])
        found[name] = depth_r2(backbone, data, torch.device("cpu"))
    assert found["depth"] > 0.999
    assert found["noise"] < 0.2
    assert backbone.training, "the mode is kept"


def test_too_few_cells_say_nothing(made_store):
    data = CellData(TokenStore.open(made_store), val=0.25, test=0.0)
    few = CellData(TokenStore.open(made_store), val=0.0, test=0.0)
    assert len(data.split.val)
    assert depth_r2(Fixed(), few, torch.device("cpu")) is None


def test_a_run_writes_it(train):
    import json

    _, folder = train("trainer.max_steps=1", "data.val=0.5")
    assert -1 < json.loads((folder / "metrics.json").read_text())["val/depth_r2"] <= 1
