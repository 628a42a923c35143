import pytest
import torch
from torch import nn

from scfm.model.backbone import Backbone
from scfm.optim.groups import parameter_groups
from scfm.optim.layerwise import layerwise
from scfm.vocab import Vocab

VOCAB = Vocab(tuple(f"g{i}" for i in range(50)), {"pad": 0, "mask": 1})
CAUSAL = [pytest.param(False, id="bert"), pytest.param(True, id="gpt2")]


def module(causal):
    whole = nn.Module()
    whole.backbone = Backbone(VOCAB, causal, layers=3, width=16, heads=2, feedforward=32, positions=8)
    whole.head = nn.Linear(16, 4)
    return whole


@pytest.mark.parametrize("causal", CAUSAL)
def test_every_norm_and_bias_is_without_decay(causal):
    whole = module(causal)
    groups = parameter_groups(whole)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(whole.parameters())), "each parameter is in one group, tied ones once"
    norms = {id(p) for m in whole.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    assert len(norms) >= 2 * 7
    for name, parameter in whole.named_parameters():
        free = id(parameter) in norms or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if free else 0.1), name


@pytest.mark.parametrize("causal", CAUSAL)
def test_kinds_and_depths(causal):
    whole = module(causal)
    groups = {group["kind"]: group for group in parameter_groups(whole)}
    assert list(groups) == ["matrix", "table", "vector"]
    assert len(groups["matrix"]["params"]) == 3 * (4 if causal else 6)
    assert all(p.ndim == 2 for p in groups["matrix"]["params"])
    depth = {id(p): d for group in groups.values() for p, d in zip(group["params"], group["depths"], strict=True)}
    embedding = whole.backbone.model.get_input_embeddings().weight
    assert depth[id(embedding)] == 0
    assert [depth[id(next(layer.parameters()))] for layer in whole.backbone.layers] == [1, 2, 3]
    assert depth[id(whole.head.weight)] == depth[id(whole.head.bias)] == 4
    assert id(whole.head.weight) in {id(p) for p in groups["table"]["params"]}


def test_frozen_parameters_are_left_out():
    whole = module(False)
    whole.backbone.requires_grad_(False)
    groups = parameter_groups(whole)
    assert [group["kind"] for group in groups] == ["table", "vector"]
    whole.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        parameter_groups(whole)


@pytest.mark.parametrize("causal", CAUSAL)
def test_layerwise_rates(causal):
    whole = module(causal)
    optimizer = layerwise(parameter_groups(whole), lr=1.0, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(whole.parameters()))
    assert rate[id(whole.head.weight)] == 1.0
    assert [rate[id(next(layer.parameters()))] for layer in whole.backbone.layers] == [0.125, 0.25, 0.5]
    assert rate[id(whole.backbone.model.get_input_embeddings().weight)] == 0.0625
    assert all(group["weight_decay"] == (0.0 if group["kind"] == "vector" else 0.1) for group in optimizer.param_groups)


def test_layerwise_refuses():
    with pytest.raises(ValueError, match="layer_decay=0"):
        layerwise(parameter_groups(module(False)), layer_decay=0.0)
