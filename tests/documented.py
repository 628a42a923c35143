"""The commands of the documentation, read from its code spans and blocks, for the tests that run them."""

import re
import shlex
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: relative to the repository.
        line: of its fence, from 1.
        language: after the fence; empty for commands.
        text: between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its command lines: continued lines as one, comments left out."""
        joined = self.text.replace("\\\n", " ")
        found = (re.sub(r"\s+#.*", "", f" {line}").strip() for line in joined.splitlines())
        return [line for line in found if line]


def all_pages() -> list[str]:
    """README.md and the pages of the site that are written by hand."""
    pages = (REPOSITORY / "docs").glob("**/*.md")
    return ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(REPOSITORY)) for page in pages)]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])
        for found in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def inline_commands(page: str) -> list[str]:
    """Commands in spans of code between the words of a page."""
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = (" ".join(span.split()) for span in _SPAN.findall(text))
    return [span for span in spans if _COMMAND.match(span) or re.match(r"(make|pip|docker|conda) \S", span)]
