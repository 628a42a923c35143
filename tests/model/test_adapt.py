import sys

import pytest
import torch

from scfm.model.adapt import frozen, full, lora, merge, reset_adaptation
from scfm.model.pooling import embed

CAUSAL = [pytest.param(False, id="bert"), pytest.param(True, id="gpt2")]


def trainable(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("layer", [-1, -2, 0])
@pytest.mark.parametrize("adapt", [full, lambda b: frozen(b, layers=0), lora], ids=["full", "frozen", "lora"])
def test_what_is_trained_gets_a_gradient(adapt, layer, causal, small, pack, vocab):
    """Processes that train together wait for every trainable parameter."""
    backbone = adapt(small(causal, embedding_layer=layer))
    if trainable(backbone):
        embed(backbone, pack([5, 9]), vocab).square().sum().backward()
    assert {name for name, p in backbone.named_parameters() if p.grad is not None} == trainable(backbone)


@pytest.mark.parametrize("causal", CAUSAL)
def test_frozen_by_depth(causal, small):
    layers = "h" if causal else "layer"
    some = trainable(frozen(small(causal), layers=1))
    assert some
    assert all(f".{layers}.1." in name or ".ln_f." in name for name in some)
    assert not trainable(frozen(small(causal)))
    assert not any(f".{layers}." in name for name in trainable(frozen(small(causal), layers=2)))
    with pytest.raises(ValueError, match=r"adapt.layers=3; this backbone has 2 layers"):
        frozen(small(causal), layers=3)


@pytest.mark.parametrize("causal", CAUSAL)
def test_lora_starts_as_the_backbone_and_merges_back(causal, small, pack):
    backbone, batch = small(causal), pack([5, 9])
    names, before = list(backbone.state_dict()), backbone(batch)
    lora(backbone, rank=2)
    torch.testing.assert_close(backbone(batch), before)
    assert all("lora_" in name for name in trainable(backbone))
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned = backbone(batch)
    assert (tuned - before).abs().max() > 1e-3
    merge(backbone)
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(batch), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(
    "before", [frozen, lambda b: frozen(b, layers=1), full, lora], ids=["frozen", "1", "full", "lora"]
)
def test_what_an_earlier_fine_tune_froze_or_added_has_no_say(before, causal, small, pack):
    plain, backbone, batch = small(causal), before(small(causal)), pack([5, 9])
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned = backbone(batch)
    again = reset_adaptation(backbone)
    torch.testing.assert_close(again(batch), tuned, atol=1e-5, rtol=1e-5)
    assert list(again.state_dict()) == list(plain.state_dict())
    assert trainable(again) == trainable(plain)
    assert trainable(full(again)) == trainable(full(plain))


def test_lora_without_peft(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "scfm-framework\[lora\]"'):
        lora(small(False))


def test_lora_with_an_unknown_target(small):
    with pytest.raises(ValueError, match="querry"):
        lora(small(False), targets=["querry"])
