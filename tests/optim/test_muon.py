import copy
import io

import pytest
import torch
from torch import nn

from scfm.optim import schedule
from scfm.optim.groups import parameter_groups
from scfm.optim.muon import Muon


def make():
    torch.manual_seed(0)
    whole = nn.Module()
    whole.embeddings = nn.Embedding(20, 8)
    whole.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    whole.head = nn.Linear(8, 3)
    return whole


def step(whole, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in whole.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_equals_the_two_optimizers_of_torch():
    ours, its = make(), make()
    optimizer = Muon(parameter_groups(ours), lr=1e-2, weight_decay=0.1)
    matrices = [layer.weight for layer in its.layers]
    tables = [its.embeddings.weight, its.head.weight]
    vectors = [its.head.bias, *(layer.bias for layer in its.layers)]
    parts = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(tables, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95)),
        torch.optim.AdamW(vectors, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    for seed in range(3):
        step(ours, optimizer, seed)
        step(its, parts[0], seed)
        for part in parts[1:]:
            part.step()
    torch.testing.assert_close(list(ours.parameters()), list(its.parameters()))


def test_resumes_to_the_bit():
    whole = make()
    optimizer = Muon(parameter_groups(whole), lr=1e-2)
    plan = schedule.cosine(optimizer, 8, warmup=2)
    for seed in range(3):
        step(whole, optimizer, seed)
        plan.step()
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "plan": plan.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other = copy.deepcopy(whole)
    resumed = Muon(parameter_groups(other), lr=5.0)
    again = schedule.cosine(resumed, 8, warmup=2)
    resumed.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["plan"])
    for seed in range(3, 6):
        for model, its, line in ((whole, optimizer, plan), (other, resumed, again)):
            step(model, its, seed)
            line.step()
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_schedule_moves_both_parts():
    whole = make()
    optimizer = Muon(parameter_groups(whole), lr=1.0)
    schedule.linear(optimizer, 10, warmup=4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2}
    assert {group["lr"] for part in optimizer._parts for group in part.param_groups} == {0.2}


def test_closure_and_refusal():
    whole = make()
    optimizer = Muon(parameter_groups(whole))
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3
    with pytest.raises(ValueError, match="use optim=adamw"):
        Muon(parameter_groups(nn.Linear(3, 3)))
