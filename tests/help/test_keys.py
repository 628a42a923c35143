"""Every key of every command has an explanation, and its default is what the yaml says."""

from pathlib import Path

import pytest
import yaml

from scfm.help.keys import CONFIGS, arguments, command_groups, read_choice, read_command, read_group

COMMANDS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")


def flat(values: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and "_partial_" not in value:
            found |= flat(value, f"{prefix}{key}.")
        elif key not in ("_target_", "defaults", "hydra"):
            found[f"{prefix}{key}"] = value
    return found


OWN = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "hydra" not in path.parts]  # those inherit files of Hydra


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_keys_and_defaults_are_those_of_yaml_itself(path):
    """The comments are read by columns of the text: a parser that has nothing to do with them is the oracle."""
    truth = yaml.safe_load(path.read_text()) or {}
    truth.pop("hydra", None)
    read = {key.name: key.default for key in read_choice(path).keys}
    for name, value in flat(truth).items():
        nodes = [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]
        node = next((node for node in nodes if node in read), None)
        assert node is not None, name
        if node == name and not isinstance(value, dict):
            assert yaml.safe_load(read[name]) == value or read[name] == str(value).strip(), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_has_an_explanation(command):
    page = read_command(command)
    silent = [key.name for key in page.keys if not key.text]
    for group, choices in command_groups(page).items():
        if group not in ("experiment", "debug"):  # these give other values to keys that are explained elsewhere
            silent += [f"{group}={name} {key.name}" for name, c in choices.items() for key in c.keys if not key.text]
    assert silent == []


def test_a_comment_is_not_taken_from_text_that_only_looks_like_one(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text('# What it is.\nplain: "a # b"   # the comment\nlist: [1, 2]\nnode:\n  below: 3  # 100 # percent\n')
    a, b, c = read_choice(path).keys
    assert (a.name, a.default, a.text) == ("plain", '"a # b"', "the comment")
    assert (b.name, b.default, b.text) == ("list", "[1, 2]", "")
    assert (c.name, c.default, c.text) == ("node.below", "3", "100 # percent")


def test_a_choice_inherits_explanations_but_not_values(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1  # how many\ny: 2  # how much\n")
    (tmp_path / "b.yaml").write_text("defaults: [a, _self_]\nx: 5\n")
    keys = {key.name: key for key in read_choice(tmp_path / "b.yaml").keys}
    assert (keys["x"].default, keys["x"].text) == ("5", "how many")
    assert keys["y"].default == "2"


def test_arguments_without_a_comment_are_explained_by_the_docstring():
    assert arguments("scfm.model.backbone.Backbone")["width"] == "D."
    assert "published models" in arguments("scfm.model.backbone.Backbone")["max_length"].lower()
    assert arguments("torch.optim.AdamW") == {}
    assert arguments("scfm.no.such.Thing") == {}


def test_a_command_has_its_own_groups_and_its_own_recipes_alone():
    train, finetune = read_command("train"), read_command("finetune")
    assert "head" not in train.groups
    assert "objective" not in finetune.groups
    assert finetune.groups["callbacks"] == "finetune"
    assert {name.split("_")[0] for name in command_groups(train)["experiment"]} == {"atlas"}
    assert "atlas_small" not in command_groups(finetune)["experiment"]
    assert "annotation_classifier" in command_groups(finetune)["experiment"]


def test_choices_of_a_folder_of_ones_own_stand_beside_the_shipped_ones(tmp_path):
    (tmp_path / "objective").mkdir()
    (tmp_path / "objective/mine.yaml").write_text("# My objective.\n_target_: mine.Mine\nsmoothing: 0.1  # of labels\n")
    found = read_group("objective", (CONFIGS, Path(tmp_path)))
    assert {"mlm", "ar", "mine"} <= set(found)
    assert found["mine"].summary == "My objective."
