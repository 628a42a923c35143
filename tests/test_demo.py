"""The closing table of the demo says what each number is, in 80 columns; its commands are those of users."""

import json
from pathlib import Path

import pytest

from documented import REPOSITORY
from scfm import demo
from scfm.config import check, shipped

EVALUATION = {
    "annotation": {name: {"macro_f1": 0.9 - i / 20} for i, name in enumerate(demo.METHODS)},
    "summary": ["Naming cell_type: the head reaches a macro-F1 of 0.887, not surely better than an alternative. " * 2],
}


@pytest.fixture
def closing(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "outputs/demo")
    folder = demo.OUTPUT / "pretrain"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"val/loss": 7.463, "val/unigram_loss": 7.61, "val/accuracy": 0.1}))
    text = demo.closing_table(EVALUATION, 188.7)
    return text.replace(str(tmp_path) + "/", "")


def test_it_fits_80_columns(closing):
    assert [line for line in closing.splitlines() if len(line) > 80] == []


def test_every_number_is_explained(closing):
    rows = [line for line in closing.splitlines() if line.startswith("  0.")]
    assert len(rows) == len(demo.METHODS)
    assert all(len(line.split("  ")) >= 4 for line in rows)
    assert "lower is better" in closing and "1 is perfect" in closing
    assert "7.463  this model" in closing
    assert "cluster" not in closing, "a loss that was not measured has no row"


def test_the_report_and_the_next_commands_are_named(closing):
    assert "outputs/demo/report.html" in closing
    assert "scfm-prepare input='data/*.h5ad'" in closing


def test_every_method_of_the_readme_is_explained():
    """The table of README.md is what the demo printed: no method has come that the demo does not explain."""
    text = (REPOSITORY / "README.md").read_text()
    shown = text.split("What `make demo` prints")[1].split("```")[1].splitlines()
    names = {line[9:41].strip() for line in shown if line.startswith("  0.")}
    assert names and names <= set(demo.METHODS)


def test_commands_are_complete():
    from hydra import compose, initialize_config_dir

    from scfm.cli import CONFIGS

    for name, *words in demo.commands(Path("cells.h5ad")):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            check(compose(name, words), shipped(CONFIGS, name))
