"""Every yaml composes and passes the check; its path is the path of the module it names."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from scfm.cli import CONFIGS
from scfm.config import check, shipped

#: Groups and the command that uses them.
GROUPS = {
    "train": (
        "tokenizer",
        "data",
        "model",
        "objective",
        "start",
        "optim",
        "schedule",
        "trainer",
        "strategy",
        "callbacks",
        "logger",
    ),
    "finetune": ("head", "adapt", "callbacks"),
    "analyse": ("analysis",),
}
MUST_HAVE = {
    "train": [],
    "finetune": ["init_from=x.ckpt", "head.label=cell_type"],
    "prepare": ["input=x.h5ad", "output=x"],
    "embed": ["init_from=x.ckpt", "input=x.h5ad", "output=y.h5ad"],
    "evaluate": ["input=x.h5ad", "embedding=X_scfm"],
    "analyse": ["analysis=perturb", "init_from=x.ckpt", "input=x.h5ad"],
    "compress": ["init_from=x.ckpt", "store=x", "output=y.ckpt"],
    "sketch": ["input=x.h5ad", "output=y.csv", "n=10"],
}


def choices(group: str) -> list[str]:
    folder = CONFIGS / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def composed(command: str, *overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize("command", MUST_HAVE)
def test_every_command_composes(command):
    check(composed(command, *MUST_HAVE[command]), shipped(CONFIGS, command))


@pytest.mark.parametrize(
    ("command", "group", "choice"),
    [(command, group, choice) for command, groups in GROUPS.items() for group in groups for choice in choices(group)],
)
def test_every_yaml_of_every_group_passes(command, group, choice):
    needed = [value for value in MUST_HAVE[command] if group != "head" or not value.startswith("head.")]
    cfg = composed(command, *needed, f"{group}={choice}")
    try:
        check(cfg, shipped(CONFIGS, command))
    except ValueError as error:
        lines = [line for line in str(error).splitlines() if line.startswith("  - ")]
        assert lines, error
        assert all("is missing; give it a value" in line for line in lines), error


@pytest.mark.parametrize("choice", choices("experiment"))
def test_every_experiment_passes_and_says_what_it_costs(choice):
    text = (CONFIGS / "experiment" / f"{choice}.yaml").read_text()
    lines = [line for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    assert len(lines) >= 3, "the command, the hardware and time it took, the result with its spread"
    command = "finetune" if "finetune" in lines[0] else "train"
    check(composed(command, *MUST_HAVE[command][:1], f"experiment={choice}"), shipped(CONFIGS, command))


@pytest.mark.parametrize("group", ["objective", "head", "analysis"])
def test_the_yaml_path_is_the_module_path(group):
    for choice in choices(group):
        named = yaml.safe_load((CONFIGS / group / f"{choice}.yaml").read_text()).get("_target_")
        if named is not None:
            assert named.rpartition(".")[0] == f"scfm.{group}.{choice.replace('/', '.')}"


def test_no_yaml_names_a_folder_of_one_machine():
    for path in CONFIGS.rglob("*.yaml"):
        for word in ("/home/", "/root/", "/work/", "/mnt/", "/data/", "C:\\"):
            assert word not in path.read_text(), f"{path} names {word}"


def test_every_key_of_a_command_is_read():
    """A key that no code and no other yaml reads would lie to the user."""
    code = "\n".join(path.read_text() for path in Path(CONFIGS.parent, "scfm").rglob("*.py"))
    yamls = "\n".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    for command in MUST_HAVE:
        for key in shipped(CONFIGS, command):
            if key in ("experiment", "debug"):
                continue
            read = any(text in code for text in (f"cfg.{key}", f'"{key}"', f"{key}:")) or f"${{{key}" in yamls
            assert read, f"{command}.yaml has the key {key}, which nothing reads"
