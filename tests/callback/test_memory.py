"""Memory that runs out, as a fake allocator has it: the step is done in parts, and none is lost."""

import pandas as pd
import pytest
import torch

from scfm import checkpoint
from scfm.batch import Batch
from scfm.module import metrics_in_parts
from scfm.objective.mlm import MLM


def limit_memory(monkeypatch, tokens: int, *, backward: bool = False):
    """Batches above ``tokens`` do not fit, in the forward or the backward pass."""
    forward = MLM.forward

    def limited(self, backbone, batch: Batch):
        too_large = self.training and batch.n_tokens > tokens
        if too_large and not backward:
            raise torch.OutOfMemoryError("fake: out of memory")
        found = forward(self, backbone, batch)
        if too_large:
            found["loss"].register_hook(_out_of_memory)
        return found

    monkeypatch.setattr(MLM, "forward", limited)


def _out_of_memory(grad):
    raise torch.OutOfMemoryError("fake: out of memory")


def losses(folder):
    return pd.read_csv(folder / "metrics.csv")["train/loss"].dropna().tolist()


@pytest.mark.parametrize("backward", [False, True])
def test_a_batch_that_does_not_fit_is_done_in_parts(train, monkeypatch, caplog, backward):
    limit_memory(monkeypatch, 100, backward=backward)
    folder = train("trainer.max_steps=4", "data.tokens_per_step=512")
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt").step == 4
    assert "4 parts" in caplog.text
    assert len(losses(folder)) >= 4


def test_a_single_cell_that_does_not_fit(train, monkeypatch):
    limit_memory(monkeypatch, 1)
    with pytest.raises(ValueError, match=r"ran out of memory with \d+ tokens.*data.tokens_per_batch"):
        train("trainer.max_steps=4")


def made_batch() -> Batch:
    lengths = torch.tensor([3, 5, 2, 4, 1])
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()])
    positions = torch.cat([torch.arange(int(n)) for n in lengths])
    return Batch(torch.arange(15), positions, boundaries, 5, torch.arange(5) + 7, {"age": torch.rand(5)}, seed=3)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 9])
def test_parts_hold_the_same_cells(parts):
    batch = made_batch()
    pieces = batch.split(parts)
    assert len(pieces) == min(parts, 5)
    for name in ("ids", "positions", "index"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(batch, name))
    assert torch.equal(torch.cat([piece.lengths for piece in pieces]), batch.lengths)
    assert all(piece.longest == int(piece.lengths.max()) for piece in pieces)
    assert torch.equal(torch.cat([piece.obs["age"] for piece in pieces]), batch.obs["age"])


def test_parts_give_the_gradient_of_the_whole():
    weight = torch.randn(15, dtype=torch.float64, requires_grad=True)

    def task(batch):
        return {"loss": (weight[batch.ids] ** 2).mean(), "n_targets": torch.tensor(batch.n_tokens)}

    metrics_in_parts(task, made_batch(), 1)["loss"].backward()
    expected, weight.grad = weight.grad, None
    metrics_in_parts(task, made_batch(), 3)["loss"].backward()
    torch.testing.assert_close(weight.grad, expected)
