"""At the start of an epoch a head sees all training cells of all ranks, and the model's modes stay as they were."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from scfm.callback.head_update import Consolidate
from scfm.data.packing import pack
from scfm.head.base import Head
from scfm.module import CellModule
from scfm.types import Ragged

LENGTHS = [3, 5, 4, 2, 6]


class Lengths(Head):
    """Keeps what it is given; predicts the length of a cell, and whether it was asked in training mode."""

    def predict(self, backbone, batch):
        return {"length": batch.lengths.float(), "training": torch.full((batch.n_cells,), float(self.training))}

    def update(self, outputs, targets):
        self.received = {**outputs, **targets}


def batch_of(rows):
    lengths = [LENGTHS[row] for row in rows]
    tokens = Ragged(np.ones(sum(lengths), dtype=np.int64), np.concatenate([[0], np.cumsum(lengths)]))
    return pack(tokens, np.asarray(rows), obs={"kind": np.asarray(rows) % 2})


@pytest.fixture
def run():
    """``run(task, place=None, world=1)``: an epoch begins, this rank holding the cells 0 to 2 in two batches."""

    def begin(task, place=None, world=1):
        data = SimpleNamespace(
            loader=lambda rows: [batch_of([0, 2]), batch_of([1])], split=SimpleNamespace(train=np.arange(3))
        )
        module = CellModule(nn.Dropout(), task, spec=None, about={})
        trainer = SimpleNamespace(
            world_size=world, datamodule=data, train_dataloader=SimpleNamespace(place=place) if place else None
        )
        module._trainer = trainer
        module.train()
        module.backbone.eval()  # a frozen part stays in evaluation
        Consolidate().on_train_epoch_start(trainer, module)
        return module

    return begin


def test_the_head_gets_every_cell_once_and_modes_are_restored(run):
    task = Lengths()
    module = run(task)
    assert task.received["length"].tolist() == [3, 4, 5]
    assert task.received["kind"].tolist() == [0, 0, 1]
    assert task.received["training"].tolist() == [0, 0, 0], "it was asked in evaluation mode"
    assert task.training and module.training and not module.backbone.training


def test_the_cells_of_all_ranks_are_joined(run, monkeypatch):
    other = {"length": [2, 6], "training": [0, 0], "target/kind": [1, 0]}
    answers = iter(other.values())

    def all_gather_object(parts, values):
        parts[:] = [values, np.asarray(next(answers), dtype=values.dtype)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    task = Lengths()
    run(task, world=2)
    assert task.received["length"].tolist() == [3, 4, 5, 2, 6]
    assert task.received["kind"].tolist() == [0, 0, 1, 1, 0]


def test_an_epoch_resumed_in_its_middle_and_a_head_without_the_hook_are_left_alone(run):
    task = Lengths()
    run(task, place=SimpleNamespace(step=2, order=range(4)))
    assert not hasattr(task, "received")
    run(task, place=SimpleNamespace(step=0, order=range(4)))
    assert task.received["length"].tolist() == [3, 4, 5]
    run(Head())  # has no update: nothing is read
