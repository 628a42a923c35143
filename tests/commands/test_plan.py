"""The plan's formulas against what they describe, and its refusals."""

import pytest

from scfm.model.backbone import Backbone
from support import SMALL, command, made_vocab


@pytest.fixture
def plan(made_store):
    return lambda *overrides: command("plan", f"store={made_store}", *SMALL, *overrides)


def test_parameters_are_those_of_the_model(plan):
    model = Backbone(made_vocab(), False, layers=2, width=32, heads=2, feedforward=64, positions=64)
    assert plan()["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_flops_are_those_of_the_published_formula(plan):
    found = plan()
    linear, head = 6 * 2 * (4 * 32**2 + 2 * 32 * 64), 6 * (44 * 32 + 32**2) * 0.15
    attention = found["gflop_per_token"] * 1e9 - linear - head
    tbar = attention / (12 * 2 * 32)
    assert 8 < tbar < 22  # cells of the made store have 8 to 21 tokens


@pytest.mark.parametrize(
    ("strategy", "factor"),
    [("ddp", 16), ("deepspeed_zero1", 9), ("deepspeed_zero2", 5.5), ("deepspeed_zero3", 2), ("fsdp2", 2)],
)
def test_what_is_divided_over_eight_devices(plan, strategy, factor):
    found = plan(f"strategy={strategy}", "trainer.devices=8")
    states = found["weights_gb"] + found["gradients_gb"] + found["optimizer_gb"]
    assert states * 1e9 == pytest.approx(factor * found["parameters"])


def test_more_devices_and_checkpointing(plan):
    one, eight = plan("data.tokens_per_step=2048"), plan("data.tokens_per_step=2048", "trainer.devices=8")
    assert eight["hours"] == pytest.approx(one["hours"] / 8)
    assert (
        plan("model.checkpointing=true", "model.layers=12")["activations_gb"]
        < plan("model.layers=12")["activations_gb"]
    )


def test_a_probe_measures(plan):
    assert plan("probe=true")["measured_tokens_per_s"] > 100


@pytest.mark.parametrize(
    ("override", "message"),
    [("gpu=abacus", "known are h200"), ("efficiency=2", "share above 0"), ("trainer.max_steps=-1", "no end")],
)
def test_refusals(plan, override, message):
    with pytest.raises(ValueError, match=message):
        plan(override)
