"""Names of earlier versions: stored configs and weights read as today's, and typed keys are accepted with a warning."""

import inspect
import logging

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scfm.cli import CONFIGS, lenient
from scfm.config import build, check, shipped, target
from scfm.head.integration.batch_token import BatchToken
from scfm.migrate import RENAMED_KEYS, RENAMED_WEIGHTS, OldSweptKeys, accept_old_keys, migrate_config, migrate_weights
from scfm.trust.allowed import stored_faults
from scfm.types import Spec
from support import made_vocab

TOKEN = "scfm.head.integration.batch_token.BatchToken"
SPEC = Spec(made_vocab(), 16, {"batch": ("a", "b"), "cell_type": ("T", "B")})


def test_a_stored_config_has_todays_keys_at_any_depth_and_is_not_changed():
    old = {"head": {"_target_": TOKEN, "batch_key": "batch", "size": 8, "longest": 9, "stay": 0.5, "context": 0.3}}
    new = migrate_config(old)
    assert new["head"] == {
        "_target_": TOKEN, "batch_key": "batch", "width": 8, "max_tokens": 9, "neighbor_weight": 0.5,
        "view": {"_target_": "scfm.head.views.ViewOptions", "min_share": 0.3},
    }  # fmt: skip
    assert migrate_config(new) == new
    assert old["head"]["size"] == 8


def test_one_key_has_two_meanings_by_target():
    head = {"_target_": "scfm.head.annotation.classifier.Classifier", "context": 64}
    assert migrate_config(head) == {"_target_": head["_target_"], "max_tokens": 64}


@pytest.mark.parametrize("name", RENAMED_KEYS)
def test_old_keys_are_gone_and_todays_are_arguments(name):
    yaml = next(path for path in (CONFIGS / "head").rglob("*.yaml") if OmegaConf.load(path)._target_ == name)
    today = OmegaConf.load(yaml)
    for old, new in RENAMED_KEYS[name].items():
        assert old not in today
        *above, key = new.split(".")
        node = OmegaConf.select(today, ".".join(above)) if above else today
        assert key in node
        assert key in inspect.signature(target(node)).parameters or not above


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("finetune", lenient(["init_from=x.ckpt", "store=x", *overrides]))


def test_old_keys_that_a_user_types_are_accepted_with_a_warning(caplog):
    cfg = composed("head=integration/batch_token", "head.genes=8", "head.stay=0.5", "head.thin=0.7", "head.drop=0.1")
    with caplog.at_level(logging.WARNING):
        check(cfg, shipped(CONFIGS, "finetune"))
    assert "head.genes is now called head.gene_components; the old name still works" in caplog.text
    assert "head.thin is now called head.view.min_depth" in caplog.text
    assert (cfg.head.gene_components, cfg.head.neighbor_weight, cfg.head.view.min_depth) == (8, 0.5, 0.7)
    assert not {"genes", "stay", "thin", "drop"} & set(cfg.head)
    head = build(cfg.head, SPEC)
    assert isinstance(head, BatchToken)
    assert (head.state.components.width, head.views.options.drop, head.counts) == (8, 0.1, True)


def test_a_config_of_todays_keys_is_left_alone(caplog):
    cfg = composed("head=annotation/classifier", "head.label=cell_type")
    before = OmegaConf.to_container(cfg)
    accept_old_keys(cfg)
    assert OmegaConf.to_container(cfg) == before
    assert not caplog.records


def test_an_old_key_of_a_users_own_yaml_without_a_view(caplog):
    cfg = OmegaConf.create({"head": {"_target_": TOKEN, "batch_key": "batch", "jitter": 1.0}})
    accept_old_keys(cfg)
    assert build(cfg.head, SPEC).views.options.jitter == 1.0


def test_a_wrong_value_or_key_of_a_view_is_reported():
    cfg = composed("head=integration/distill", "head.view.jiter=1", "head.view.drop=much")
    with pytest.raises(ValueError, match="did you mean 'jitter'") as caught:
        check(cfg, shipped(CONFIGS, "finetune"))
    assert "head.view.drop='much' is str; expected float" in str(caught.value)


def test_weights_of_the_first_version_have_todays_names():
    old = ["task.state.bag.rows", "task.state.bag.centre", "task.bag.table.weight", "task.centres", "task.rows",
           "task.columns.0.familiarity.centres", "backbone.model.centre"]  # fmt: skip
    config = {"head": {"_target_": TOKEN}}
    new = migrate_weights({name: torch.zeros(1) for name in old}, config)
    assert list(new) == [
        "task.state.components.loadings", "task.state.components.center", "task.bag.table.weight", "task.centers",
        "task.rows", "task.columns.0.familiarity.centers", "backbone.model.centre",
    ]  # fmt: skip
    assert list(migrate_weights(new, config)) == list(new)
    own = {"task.centre": torch.zeros(1)}
    assert list(migrate_weights(own, {"head": {"_target_": "mine.Head"}})) == ["task.centre"]
    assert list(migrate_weights(own, {"head": None})) == ["task.centre"]
    assert len(RENAMED_WEIGHTS) == 3


def test_a_run_of_the_first_version_resumes():
    from scfm.model.backbone import Backbone
    from scfm.module import CellModule

    head = BatchToken(SPEC, batch_key="batch", gene_components=4)
    backbone = Backbone(SPEC.vocab, causal=False, layers=1, width=16, heads=2, feedforward=16, positions=64)
    module = CellModule(backbone, head, SPEC, {})
    today = {"components.loadings": "bag.rows", "components.center": "bag.centre"}
    old = {}
    for name, value in module.state_dict().items():
        for new, first in today.items():
            name = name.replace(new, first)
        old[name] = value
    assert "task.state.bag.rows" in old
    checkpoint = {"state_dict": old, "scfm": {"config": {"head": {"_target_": TOKEN, "genes": 4}}}}
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=True)


def test_a_stored_head_may_name_its_view_and_no_other_part():
    def faults(inner):
        return list(stored_faults({"head": {"_target_": TOKEN, "batch_key": "batch", "view": {"_target_": inner}}}))

    assert not faults("scfm.head.views.ViewOptions")
    for other in ("scfm.store.mix.open_mix", "scfm.training.demo_store.Source", "transformers.BertModel"):
        (fault,) = faults(other)
        assert fault == f"head.view names {other!r}, which a stored config must not build"


def test_old_keys_that_a_yaml_sweeps_over_are_renamed(caplog):
    params = {"head.stay": "0.5,1", "head.jitter": "0,1", "optim.lr": "1e-3", "name": "a,b", "head.width": 4}
    cfg = OmegaConf.create({"head": {"_target_": TOKEN}, "hydra": {"sweeper": {"params": params}}})
    OldSweptKeys().on_multirun_start(cfg)
    assert dict(cfg.hydra.sweeper.params) == {
        "optim.lr": "1e-3", "name": "a,b", "head.width": 4, "head.neighbor_weight": "0.5,1", "head.view.jitter": "0,1",
    }  # fmt: skip
    assert "head.stay is now called head.neighbor_weight; the old name still works" in caplog.text
    for params in (None, {}):
        cfg = OmegaConf.create({"hydra": {"sweeper": {"params": params}}})
        OldSweptKeys().on_multirun_start(cfg)
        assert cfg.hydra.sweeper.params == params
    assert composed_hydra().callbacks.old_keys._target_ == "scfm.migrate.OldSweptKeys"


def composed_hydra():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("finetune", return_hydra_config=True).hydra
