"""The commands of the documentation, read from its code spans and blocks, for the tests that run them."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("docs/launch.md", "docs/performance.md")
_SPAN = re.compile(r"`+([^`]+)`+")
_COMMAND = re.compile(r"(scfm-\w+|torchrun|deepspeed|sbatch|srun|python|[\w/]+\.py) \S")


def commands() -> list[str]:
    """Everything in code on the pages that begins with a program and has arguments."""
    spans = [span for page in PAGES for span in _SPAN.findall((REPOSITORY / page).read_text())]
    lines = [line.strip() for span in spans for line in span.splitlines()]
    return [line for line in lines if _COMMAND.match(line)]


def documented(beginning: str) -> list[str]:
    """The words of the one documented command that begins so."""
    (found,) = {command for command in commands() if command.startswith(beginning)}
    return shlex.split(found)


def smaller(words: list[str], *replacements: tuple[str, str]) -> list[str]:
    """The words with some replaced; each replacement must find its place, so that none outlives a changed command."""
    for before, after in replacements:
        assert any(word.startswith(before) for word in words), f"{before} is not in {words}"
        words = [after if word.startswith(before) else word for word in words]
    return words
