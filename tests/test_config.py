"""The config is checked whole, against signatures, before anything happens."""

import pytest
from omegaconf import OmegaConf

from scfm.cli import CONFIGS, lenient
from scfm.config import ALLOWED, build, check, shipped

KNOWN = {"seed": 0, "name": "x", "optim": None, "trainer": None, "callbacks": None, "nested": {"a": 1}}


def cfg(**values):
    return OmegaConf.create(values)


def problem(**values):
    with pytest.raises(ValueError) as caught:
        check(cfg(**values), KNOWN)
    return str(caught.value)


ADAM = {"_target_": "torch.optim.AdamW", "lr": 0.1}


def test_a_right_config_passes():
    check(cfg(seed=1, optim=ADAM, nested={"a": 2}), KNOWN)


def test_all_errors_are_reported_at_once_with_the_nearest_key():
    message = problem(
        seeed=1,
        optim={**ADAM, "weight_deca": 0.1},
        trainer={"_target_": "pytorch_lightning.Trainer", "max_stepz": 3},
        nested={"b": 1},
    )
    assert "4 error(s)" in message
    assert "seeed is unknown; did you mean 'seed'?" in message
    assert "optim.weight_deca is unknown; did you mean 'weight_decay'?" in message
    assert "trainer.max_stepz is unknown; did you mean 'max_steps'?" in message
    assert "nested.b is unknown" in message


@pytest.mark.parametrize("key", ["max_steps", "max_epochs"])
def test_a_value_of_the_wrong_type(key):
    message = problem(trainer={"_target_": "pytorch_lightning.Trainer", key: "many"})
    assert f"trainer.{key}='many' is str; expected" in message


def test_a_word_that_is_no_choice():
    message = problem(optim={"_target_": "scfm.data.shuffle.Shuffle", "kind": "block"})
    assert "optim.kind='block' is str; expected one of cells, blocks, stored" in message


def test_arguments_that_a_class_shares_with_its_base_are_checked_like_its_own():
    triplet = {"_target_": "scfm.head.integration.triplet.Triplet", "batch_key": "batch"}
    check(cfg(optim={**triplet, "max_tokens": None, "own_batch_share": 0.5}), KNOWN)
    message = problem(optim={**triplet, "batch_key": 3, "hiden": 8, "max_tokens": "all"})
    assert "optim.batch_key=3 is int; expected str" in message
    assert "optim.hiden is unknown; did you mean 'hidden'?" in message
    assert "optim.max_tokens='all' is str; expected int | None" in message
    assert "optim.batch_key is missing" in problem(optim={"_target_": triplet["_target_"]})


def test_targets_outside_the_allow_list():
    assert "os.system is not allowed" in problem(optim={"_target_": "os.system"})
    assert "torch.load is not allowed" in problem(optim={"_target_": "torch.load"})
    assert not any(prefix == "torch." for prefix in ALLOWED)


def test_a_target_that_does_not_exist():
    assert "cannot be imported" in problem(optim={"_target_": "torch.optim.Adamw"})


def test_a_missing_value():
    assert "name is missing" in problem(name="???")


def test_a_misspelled_part_of_a_collection():
    part = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "x"}
    message = problem(callbacks={"early_stopping": part, "early_stoping": {"patience": 3}})
    assert "callbacks.early_stoping is unknown; did you mean 'early_stopping'?" in message
    check(cfg(callbacks={"early_stopping": part, "removed": None}), KNOWN)


def test_an_interpolation_that_leads_nowhere():
    assert "cannot be resolved" in problem(name="${nowhere}")


def test_build_passes_what_only_the_run_knows():
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    assert build(cfg(**ADAM), [weight]).param_groups[0]["lr"] == 0.1


def test_overrides_are_let_through_and_choices_are_not():
    given = [
        "objective=ar",
        "optim.lr=1",
        "head=annotation/classifier",
        "+x=1",
        "~y",
        "hydra.verbose=true",
        "--cfg",
        "job",
    ]
    expected = ["objective=ar", "++optim.lr=1", *given[2:]]
    assert lenient(given) == expected
    assert lenient(expected) == expected


def test_a_path_of_any_letters_is_quoted():
    assert lenient(["input=data/some cells ä.h5ad"]) == ["++input='data/some cells ä.h5ad'"]
    assert lenient(["input='ä.h5ad'", "input=a b.h5ad"]) == ["++input='ä.h5ad'", "++input=a b.h5ad"]


@pytest.mark.parametrize("command", ["train", "finetune", "prepare", "embed", "evaluate"])
def test_the_keys_of_a_command_are_those_of_its_yaml_and_what_it_inherits(command):
    known = shipped(CONFIGS, command)
    assert "defaults" not in known
    assert "hydra" not in known
    if command in ("train", "finetune"):
        assert {"trainer", "data", "seed", "source", "metric"} <= set(known)
