"""Every "do X" in an error message names a key that some command takes, and not one that was renamed."""

import ast
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import scfm.cli
from scfm.cli import CONFIGS
from scfm.training.fit import open_store

PACKAGE = Path(scfm.cli.__file__).parent
COMMANDS = sorted(path.stem for path in (PACKAGE / "commands").glob("*.py") if path.stem != "__init__")
#: ``key=`` or ``some.key=`` in a sentence; what stands before must not be part of a longer word or an expression.
ADVICE = re.compile(r"(?<![\w.\]'\"{}/-])((?:[a-z_]+\.)*[a-z_]+)=(?=[A-Za-z0-9.'\[…{])")
#: Words with an equals sign that are no keys: numbers that are reported, arguments of other programs, Python.
NO_KEYS = {
    *("compression", "verbose", "output_dir", "rank", "n", "k", "copy", "axis"),
    *("index_col", "key", "date", "world", "time", "signal", "name"),
}


def raised_texts(path: Path) -> list[tuple[int, str]]:
    """The texts of exceptions that are raised and of log lines, with their line numbers."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        is_error = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        is_log = isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.warning", "log.error", "log.info")
        if is_error or is_log:
            call = node.exc if is_error else node
            for part in ast.walk(call):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    texts.append((node.lineno, part.value))
    return texts


def keys_of(command: str) -> set[str]:
    """Every key of a command, in every choice of its groups; parts of dotted keys as well."""
    found: set[str] = set()

    def add(value, prefix: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                found.add(f"{prefix}{key}")
                add(item, f"{prefix}{key}.")

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = ["analysis=explain"] if command == "analyse" else []  # the others are read from their files
        add(OmegaConf.to_container(compose(command, chosen), resolve=False), "")
    for folder in (path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"):
        if folder.name in found or f"{folder.name}." in " ".join(found):
            for path in folder.rglob("*.yaml"):
                values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
                add(values if "@package _global_" in path.read_text() else {folder.name: values}, "")
            found.add(folder.name)
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {key for command in COMMANDS for key in keys_of(command)}


def test_every_key_that_is_advised_exists(known):
    places = [
        (f"{path.relative_to(PACKAGE)}:{line}", key, text)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in raised_texts(path)
        for key in ADVICE.findall(text)
    ]
    assert len(places) > 60
    unknown = [
        (place, key, text) for place, key, text in places if key not in known and key.split(".")[-1] not in NO_KEYS
    ]
    assert not unknown, "\n".join(f"{place}: {key} in {text!r}" for place, key, text in unknown)


def test_a_fine_tune_without_a_store_does_not_advise_the_demo():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        fine, pre = compose("finetune"), compose("train", ["source=null"])
    with pytest.raises(ValueError, match=r"give store=FOLDER \(made by scfm-prepare\)$"):
        open_store(fine.store)
    with pytest.raises(ValueError, match=r"or data=demo or data=synthetic$"):
        open_store(pre.store, pre.source, pre.tokenizer)
