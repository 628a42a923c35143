from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from scfm.config import build
from scfm.optim import schedule

CONFIGS = Path(__file__).parents[2] / "configs"


def rates(make, n_steps=100, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plan = make(optimizer, n_steps, **options)
    found = []
    for _ in range(n_steps):
        found.append(plan.get_last_lr()[0])
        optimizer.step()
        plan.step()
    return [*found, plan.get_last_lr()[0]]


@pytest.mark.parametrize("make", [schedule.constant, schedule.linear, schedule.cosine, schedule.wsd])
def test_warmup_in_steps_or_as_a_share(make):
    assert rates(make, warmup=10) == rates(make, warmup=0.1)
    found = rates(make, warmup=10)
    assert found[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert found[10] == 1


@pytest.mark.parametrize(("make", "middle"), [(schedule.linear, 0.55), (schedule.cosine, 0.55), (schedule.wsd, 1.0)])
def test_falls_to_the_floor(make, middle):
    found = rates(make, warmup=0, floor=0.1)
    assert found[0] == 1
    assert found[50] == pytest.approx(middle)
    assert found[100] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


def test_stable_then_down():
    found = rates(schedule.wsd, warmup=0, decay=0.2)
    assert found[:81] == [1] * 81
    assert found[85] == pytest.approx(1 - (5 / 20) ** 0.5)
    assert rates(schedule.constant, warmup=0) == [1] * 101


@pytest.mark.parametrize("make", [schedule.constant, schedule.linear, schedule.cosine, schedule.wsd])
def test_refusals(make):
    with pytest.raises(ValueError, match="a run of 0 steps"):
        rates(make, 0)
    with pytest.raises(ValueError, match="warmup=200 is 200 steps, but the run has 100"):
        rates(make, warmup=200)
    with pytest.raises(ValueError, match=r"warmup=-0.1 is -10 steps"):
        rates(make, warmup=-0.1)


def test_refused_decay():
    with pytest.raises(ValueError, match=r"decay=0.0"):
        rates(schedule.wsd, decay=0.0)


@pytest.mark.parametrize("optim", ["adamw", "layerwise", "muon"])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_yaml_builds(optim, name):
    from scfm.optim.groups import parameter_groups

    module = torch.nn.Module()
    module.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
    optimizer = build(OmegaConf.load(CONFIGS / "optim" / f"{optim}.yaml"), parameter_groups(module))
    plan = build(OmegaConf.load(CONFIGS / "schedule" / f"{name}.yaml"), optimizer, 100)
    module.layers[0](torch.ones(4)).sum().backward()
    optimizer.step()
    plan.step()
    assert all(torch.isfinite(p).all() for p in module.parameters())
