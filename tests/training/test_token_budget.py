"""The token budget found with a fake allocator; the optimizer step stays as it is."""

import json

import pandas as pd
import pytest
import torch

from scfm import checkpoint
from scfm.objective.mlm import MLM


@pytest.fixture
def memory(monkeypatch):
    """``memory(tokens)``: larger batches do not fit."""

    def limit(tokens):
        forward, tried = MLM.forward, []

        def limited(self, backbone, batch):
            tried.append(batch.n_tokens)
            if batch.n_tokens > tokens:
                raise torch.OutOfMemoryError("fake: out of memory")
            return forward(self, backbone, batch)

        monkeypatch.setattr(MLM, "forward", limited)
        return tried

    return limit


AUTO = ("data.auto_budget=true", "data.tokens_per_step=1024", "trainer.max_steps=2", "data.val=0.2", "data.test=0")


def test_the_largest_budget_that_fits(train, memory):
    tried = memory(300)
    _, folder = train(*AUTO)
    assert json.loads((folder / "budget.json").read_text())["tokens_per_batch"] == 256
    assert tried[0] > 900
    assert tried[1] > 450
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt").step == 2
    assert len(pd.read_csv(folder / "metrics.csv")) > 0


def test_a_resumed_run_keeps_its_budget(train, memory):
    memory(300)
    train(*AUTO)
    tried = memory(10_000)
    train(*AUTO, "trainer.max_steps=4", "ckpt_path=last")
    assert max(tried) <= 300


def test_nothing_fits(train, memory):
    memory(5)
    with pytest.raises(ValueError, match="not even 21 tokens, the longest cell, fit"):
        train(*AUTO)


def test_without_a_step_there_is_nothing_to_keep(train):
    with pytest.raises(ValueError, match=r"needs data.tokens_per_step"):
        train("data.auto_budget=true")


def test_a_divided_model_cannot_be_tried(train):
    with pytest.raises(ValueError, match="strategy=single and ddp"):
        train(*AUTO, "strategy=fsdp2", "trainer.devices=1")
