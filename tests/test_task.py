"""Hooks of heads and objectives: those that are implemented are known, those that are misspelled are refused."""

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from scfm.cli import CONFIGS
from scfm.config import target
from scfm.head.base import Head, Written
from scfm.objective.base import Objective
from scfm.types import Needs

HEADS = sorted((CONFIGS / "head").rglob("*.yaml"))


def test_a_head_without_hooks_needs_nothing_and_writes_nothing():
    head = Head()
    assert head.hooks == frozenset()
    assert head.requirements() == Needs()
    assert head.write({}) == Written()
    assert head.summarize({}, {}) == head.calibrate({}, {}) == head.class_names() == {}
    assert head.view("batch") == "batch"
    with pytest.raises(NotImplementedError, match=r"Head has no forward\(backbone, batch\)"):
        head(None, None)


def test_hooks_of_parents_and_mix_ins_count():
    class Parent(Head):
        def prepare(self, survey):
            pass

    class MixIn(Head):
        def update(self, outputs, targets):
            pass

    class Child(MixIn, Parent):
        def write(self, outputs):
            return super().write(outputs) | Written(obs={"a": np.zeros(2)})

    assert Parent.hooks == {"prepare"}
    assert Child.hooks == {"prepare", "update", "write"}
    assert Head.hooks == frozenset()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("predicts", "looks like the hook 'predict' but is not called"),
        ("sumarize", "looks like the hook 'summarize'"),
        ("requirement", "looks like the hook 'requirements'"),
        ("annotate", r"no hook any more: write write\(outputs\), which returns Written\(obs"),
        ("consolidate", r"write update\(outputs, targets\)"),
        ("summarise", r"write summarize\(outputs, targets\)"),
    ],
)
def test_what_looks_like_a_hook_is_refused_when_the_class_is_made(name, message):
    with pytest.raises(TypeError, match=message):
        type("Mine", (Head,), {name: lambda self, *_: None})


def test_a_hook_with_other_arguments_is_refused():
    with pytest.raises(TypeError, match=r"predict is a hook and is called with \(backbone, batch\)"):
        type("Mine", (Head,), {"predict": lambda self, batch: {}})
    with pytest.raises(TypeError, match=r"sample is a hook"):
        type("Mine", (Objective,), {"sample": lambda self, backbone, batch, further: {}})


def test_methods_of_ones_own_and_arguments_with_defaults_are_fine():
    made = type("Mine", (Objective,), {"sample": lambda self, backbone, batch, n=3: {}, "mask": lambda self: None})
    assert made.hooks == {"sample"}


@pytest.mark.parametrize("path", HEADS, ids=lambda path: path.stem)
def test_every_head_predicts_and_writes(path):
    kind = target(OmegaConf.load(path))
    assert issubclass(kind, Head)
    assert {"predict", "write"} <= kind.hooks


@pytest.mark.parametrize("name", ["mlm", "ar"])
def test_objectives_are_objectives(name):
    assert issubclass(get_class(OmegaConf.load(CONFIGS / f"objective/{name}.yaml")._target_), Objective)


def test_what_is_written_is_joined_by_name():
    one, two = Written({"a": np.zeros(1)}, uns={"x": 1}), Written(obsm={"X": np.ones((1, 2))}, uns={"x": 2})
    both = one | two
    assert list(both.obs) == ["a"]
    assert list(both.obsm) == ["X"]
    assert both.uns == {"x": 2}


def test_a_head_cannot_overwrite_the_backbones_embedding(made_store, tmp_path):
    from scfm.data.module import CellData
    from scfm.model.backbone import Backbone
    from scfm.module import CellModule
    from scfm.store.token_store import TokenStore
    from scfm.types import Spec

    class Bold(Head):
        def predict(self, backbone, batch):
            return {"embedding": torch.zeros(batch.n_cells, 2)}

    data = CellData(TokenStore.open(made_store))
    backbone = Backbone(data.store.vocab, causal=False, layers=1, width=16, heads=2, feedforward=16, positions=64)
    module = CellModule(backbone, Bold(), Spec(data.store.vocab, 16), {}).eval()
    with pytest.raises(AssertionError, match="Bold.predict gives 'embedding', the backbone's name"):
        module.predict_step(next(iter(data.loader(np.arange(8), alone=True))), 0)
