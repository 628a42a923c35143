"""Momentum contrast: the queue in order, its loss by hand, weights that follow, and weights that come back."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scfm.head.integration.batch_token import BatchToken
from scfm.head.integration.queue import Follower, KeyQueue

SMALL = {"batch_key": "batch", "width": 8, "hidden": 16, "gene_components": 0}


def test_the_oldest_keys_go_first_whatever_the_number_added():
    queue = KeyQueue(5, 1)
    for first, last in ((0, 3), (3, 7), (7, 8), (8, 20)):
        numbers = torch.arange(first, last)
        queue.add(numbers[:, None].float(), numbers)
        assert sorted(queue.batches[queue.batches >= 0].tolist()) == list(range(max(0, last - 5), last))
        assert torch.equal(queue.keys[queue.batches >= 0, 0].long(), queue.batches[queue.batches >= 0])


def test_loss_by_hand_with_keys_of_the_own_batch_alone():
    queue = KeyQueue(4, 2)
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    queue.add(keys, torch.tensor([0, 1, 0]))
    query, positive = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.8, 0.6]] * 3)
    loss, _ = queue.loss(query, positive, torch.tensor([0, 1, -1]), temperature=0.5)
    e = lambda s: np.exp(s / 0.5)  # noqa: E731
    first, second = -np.log(e(0.8) / (e(0.8) + e(1.0) + e(0.6))), -np.log(e(0.6) / (e(0.6) + e(1.0)))
    assert loss.item() == pytest.approx((first + second + 0) / 3, rel=1e-5)


def test_an_empty_queue_has_no_negatives():
    unit = F.normalize(torch.randn(3, 2), dim=1).requires_grad_()
    loss, _ = KeyQueue(4, 2).loss(unit, unit.detach(), torch.tensor([0, 0, -1]), temperature=0.2)
    loss.backward()
    assert loss.item() == 0


def test_following_weights_by_hand_and_the_own_ones_back_to_the_bit():
    layer = nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    follower = Follower(0.75)
    layer.weight.data.fill_(1.0)
    follower.update(layer.parameters())
    layer.weight.data.fill_(5.0)
    follower.update(layer.parameters())
    with follower.swap_in(layer.parameters()):
        assert layer.weight.item() == 2.0  # 0.75 x 1 + 0.25 x 5
        assert not layer(torch.ones(1, 1)).requires_grad
    assert layer.weight.item() == 5.0
    assert len(follower.weights) == 1  # what is not trained is not followed


def test_divided_weights_are_refused():
    weight = nn.Parameter(torch.zeros(2))
    weight.ds_id = 0
    with pytest.raises(ValueError, match=r"head.queue averages whole weights: use strategy=ddp"):
        Follower(0.9).update([weight])


def test_training_fills_the_queue_and_validation_does_not(spec, cells, tiny):
    head = BatchToken(spec, **SMALL, queue=50)
    batch = cells.batch(range(30), seed=1)
    head.eval()
    plain = head(tiny, batch)["loss"]
    assert (head.queue.batches == -1).all()
    assert plain > 0
    head.train()
    before = [p.detach().clone() for p in (*tiny.parameters(), *head.parameters())]
    assert head(tiny, batch)["loss"] == 0  # nothing to compare with yet
    assert head.queue.batches[:30].tolist() == batch.obs["batch"].tolist()
    second = head(tiny, cells.batch(range(30, 60), seed=2))["loss"]
    second.backward()
    assert second > 0
    assert head.rows.grad.abs().max() > 0
    after = [*tiny.parameters(), *head.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_a_queue_without_keys_of_every_batch_is_warned_of_once(spec, cells, tiny, caplog):
    head = BatchToken(spec, **SMALL, queue=16)
    one, two = (cells.batch(range(first, 60, 3), seed=1) for first in (0, 1))  # micro-batches of one batch each
    with caplog.at_level(logging.WARNING):
        shares = [head(tiny, batch)["with_negatives"].item() for batch in (one, two, two, one)]
    assert shares == [0, 0, 1, 0]
    assert head(tiny, two)["loss"] == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("head.queue=16 is too short: micro-batches of one batch with about 20 cells fill it")
    assert message.endswith("set head.queue=60 or more, or head.queue=0")


def test_a_queue_for_every_batch_has_negatives_and_no_warning(spec, cells, tiny, caplog):
    head = BatchToken(spec, **SMALL, queue=60)
    for first in (0, 1, 2):
        head(tiny, cells.batch(range(first, 60, 3), seed=1))
    found = head(tiny, cells.batch(range(0, 60, 3), seed=2))
    assert found["with_negatives"] == 1
    assert found["loss"] > 0
    assert "with_negatives" not in head.eval()(tiny, cells.batch(range(0, 60, 3)))
    assert not caplog.records


def test_the_queue_teaches_and_is_not_saved(spec, cells, tiny):
    head = BatchToken(spec, **SMALL, queue=60, momentum=0.9)
    optimizer = torch.optim.Adam([*head.parameters(), *tiny.parameters()], lr=5e-3)
    fixed = cells.batch(range(60), seed=1000)
    before = head.eval()(tiny, fixed)["loss"].item()
    head.train()
    for step in range(30):
        drawn = np.random.default_rng(step).permutation(120)[:40]
        optimizer.zero_grad()
        head(tiny, cells.batch(drawn, seed=step))["loss"].backward()
        optimizer.step()
    assert head.eval()(tiny, fixed)["loss"].item() < before
    BatchToken(spec, **SMALL).load_state_dict(head.state_dict(), strict=True)


def test_autocast_keeps_no_cast_of_the_other_weights():
    layer, follower, one = nn.Linear(1, 1, bias=False), Follower(0.5), torch.ones(1, 1)
    for value in (1.0, 5.0):
        layer.weight.data.fill_(value)
        follower.update(layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = layer(one)
        with follower.swap_in(layer.parameters()):
            inside = layer(one)
        after = layer(one)
    assert [before.item(), inside.item(), after.item()] == [5.0, 3.0, 5.0]
    after.backward()
    assert layer.weight.grad.item() == 1.0
