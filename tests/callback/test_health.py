"""Injected faults: the step is skipped, counted, named by its cells; many in a row end the run."""

import pandas as pd
import pytest
import torch

from scfm import checkpoint
from scfm.callback.health import Health
from scfm.objective.mlm import MLM


@pytest.fixture
def spoil(monkeypatch):
    """``spoil({step: factor})``: multiply the training losses of some calls."""

    def at(factors, default=1.0):
        calls, forward = [0], MLM.forward

        def spoiled(self, backbone, batch):
            found = forward(self, backbone, batch)
            if self.training:
                found["loss"] = found["loss"] * factors.get(calls[0], default)
                calls[0] += 1
            return found

        monkeypatch.setattr(MLM, "forward", spoiled)

    return at


def weights(folder):
    return checkpoint.read(folder / "checkpoints" / "last.ckpt").weights


def skipped(folder):
    table = pd.read_csv(folder / "metrics.csv")
    return table["train/skipped_steps"].dropna().max() if "train/skipped_steps" in table else 0


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(train, spoil, fault, caplog):
    spoil({1: fault})
    folder = train("trainer.max_steps=2", "optim.weight_decay=0.5")
    assert skipped(folder) == 1
    assert "Optimizer step 1 is skipped: loss is" in caplog.text
    assert "rows of the store" in caplog.text
    spoil({})
    one = train("trainer.max_steps=1", "optim.weight_decay=0.5", output="one")
    first, second = weights(folder), weights(one)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_spike_is_skipped(train, spoil, caplog):
    spoil({30: 50.0})
    folder = train("trainer.max_steps=40", "callbacks.health.window=32")
    assert skipped(folder) == 1
    assert "sigma above" in caplog.text
    assert all(value.isfinite().all() for value in weights(folder).values())


def test_many_in_a_row_end_the_run(train, spoil):
    spoil({}, default=float("nan"))
    with pytest.raises(ValueError, match="3 optimizer steps in a row were unhealthy"):
        train("trainer.max_steps=40", "callbacks.health.stop_after=3")


def test_a_healthy_run_skips_nothing(train):
    assert skipped(train("trainer.max_steps=40", "callbacks.health.window=16")) == 0


def test_the_device_is_waited_for_once_a_step(train, monkeypatch):
    """Judging costs one transfer to the host, of loss and gradient norm together, and nothing else."""
    judge, transfers, steps = Health.judge, [], []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, _counted(getattr(torch.Tensor, name), transfers, steps))

    def watched(self, *arguments):
        steps.append("judging")
        judge(self, *arguments)
        steps.append("done")

    monkeypatch.setattr(Health, "judge", watched)
    train("trainer.max_steps=5")
    assert steps.count("judging") == 5
    assert len(transfers) == 5


def _counted(method, transfers, steps):
    def counted(self, *arguments, **options):
        if steps and steps[-1] == "judging":
            transfers.append(method.__name__)
        return method(self, *arguments, **options)

    return counted


def test_averaged_weights_and_resume(train):
    """Lightning's own averaging, by yaml; resumed it is the uninterrupted run."""
    options = ("callbacks=ema", "callbacks.ema.decay=0.9", "callbacks.progress=null")
    whole = train(*options, "trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=3")
    resumed = train(*options, "trainer.max_steps=6", f"ckpt_path={whole}/checkpoints/step-3.ckpt", output="resumed")
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = train("trainer.max_steps=6", output="plain")
    assert any(not torch.equal(first[name], value) for name, value in weights(plain).items())


@pytest.mark.parametrize(
    ("name", "usual", "healthy", "harmful"), [("gradient norm", 0.85, 1.7, 4.0), ("loss", 7.1, 8.0, 12.0)]
)
def test_a_small_excess_is_no_fault_where_values_hardly_vary(name, usual, healthy, harmful):
    """Early in a run a gradient norm twice the mean is 20 deviations above it, and is followed by others like it."""
    health = Health(sigma=6.0, window=128)
    health._past[name].extend(usual + 0.05 * (i % 3 - 1) for i in range(100))
    assert health._fault(name, healthy) is None
    assert "sigma above" in health._fault(name, harmful)
