"""The files around the package say what the package says."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import scfm

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", sorted((REPOSITORY / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml_and_run_paths_that_exist(path):
    text = path.read_text()
    assert yaml.safe_load(text)
    for named in re.findall(r"\b(?:tests|scripts)/[\w/]+(?:\.py)?", text):
        assert (REPOSITORY / named).exists(), named


def test_conda_and_docker_ask_for_extras_that_exist():
    for name in ("environment.yml", "Dockerfile", ".github/workflows/ci.yml", "docs/install.md"):
        for extras in re.findall(r"(?:scfm-framework|\.)\[([\w,]+)\]", (REPOSITORY / name).read_text()):
            assert set(extras.split(",")) <= EXTRAS, (name, extras)


def test_conda_bounds_are_those_of_the_package():
    ours = {re.split(r"[<>=\[]", line)[0]: line for line in PROJECT["dependencies"]}
    names = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    for entry in (entry for entry in conda if isinstance(entry, str) and ">=" in entry):
        name, bound = entry.split(">=")
        line = ours.get(names.get(name, name))
        assert line is None or f">={bound}" in line, entry


def test_what_docker_copies_is_there():
    for line in re.findall(r"^COPY (.*) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE):
        assert all((REPOSITORY / name).exists() for name in line.split())


def test_every_extra_is_explained():
    page = (REPOSITORY / "docs/install.md").read_text()
    assert all(f"`{name}`" in page for name in EXTRAS - {"dev", "demo", "notebooks"})


def test_one_version_everywhere():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert scfm.__version__ == PROJECT["version"] == citation["version"]
    assert f"## [{scfm.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()
