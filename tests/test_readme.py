"""Every command line of the documentation composes and passes the check."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from scfm.cli import CONFIGS, lenient
from scfm.config import check, shipped

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/launch.md", "docs/performance.md", "docs/scale.md", "docs/store.md"]
COMMAND = re.compile(r"(?:scfm-(\w+)|(train|finetune)\.py)\s+([^`\n]*=[^`\n]*)")


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line in (REPOSITORY / page).read_text().splitlines():
            for script, python, rest in COMMAND.findall(line):
                if "…" not in rest and "..." not in rest and not rest.startswith("-sc "):
                    found.append((script or python, rest.split("  #")[0].strip()))
    return found


def test_there_are_commands_to_check():
    assert {"prepare", "train", "finetune", "embed", "evaluate"} <= {name for name, _ in command_lines()}


@pytest.mark.parametrize(("name", "rest"), command_lines())
def test_a_documented_command_is_right(name, rest):
    words = [word for word in shlex.split(rest) if "=" in word and not word.startswith(("-", "hydra"))]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, [word if "," not in word or "[" in word else word.split(",")[0] for word in lenient(words)])
    try:
        check(cfg, shipped(CONFIGS, name))
    except ValueError as error:
        lines = [line for line in str(error).splitlines() if line.startswith("  - ")]
        assert all("is missing; give it a value" in line for line in lines), error


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("docs/**/*.md"))),
        *(str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("notebooks/*.ipynb"))),
    ],
)
def test_no_link_leads_nowhere(page):
    path = REPOSITORY / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"
