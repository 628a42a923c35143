"""An inner layer's states are the same whether or not the layers above it run."""

import pytest
import torch

from scfm.batch import Batch
from scfm.model.backbone import Backbone
from scfm.model.early_exit import hidden_until
from support import made_vocab


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
def test_states_are_equal_and_no_hook_stays(causal, layer):
    torch.manual_seed(0)
    backbone = Backbone(made_vocab(), causal, layers=3, width=16, heads=2, feedforward=32, positions=16).eval()
    ids = torch.tensor([2, 9, 8, 3, 2, 7, 3])
    batch = Batch(
        ids, torch.tensor([0, 1, 2, 3, 0, 1, 2]), torch.tensor([0, 4, 7], dtype=torch.int32), 4, torch.arange(2)
    )
    calls = []
    backbone.layers[-1].register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        early = hidden_until(backbone, batch, layer)
        assert bool(calls) == (layer in (3, -1))
        assert torch.equal(early, backbone.hidden(batch, layer))
    assert not any(layer._forward_pre_hooks for layer in backbone.layers)
