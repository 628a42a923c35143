"""The log of looks: every time that a judging set was scored, by which version, with which command."""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from sets import CellSet

import scfm

#: One line of JSON for each look; committed. Lines of the version ``earlier`` count looks before the log began.
LOOKS = Path(__file__).with_name("looks.jsonl")
#: What a version is made of: the code that is judged, and its settings.
CODE = ("scfm", "configs")


def record_look(one: CellSet, version: str | None = None, command: str | None = None, path: Path = LOOKS) -> int:
    """Note that a set is about to be scored, and say how often it has been.

    A set for tuning is not noted. Nor is the same command of the same version again, which repeats its numbers (a run
    that goes on after it was ended).

    Args:
        one: the set.
        version: of the code; None for :func:`code_version`.
        command: that looks; None for the command line of this process.
        path: the log.

    Returns:
        Looks at these cells for this task, this one included.

    Raises:
        ValueError: another command has judged this version on the set: a version is judged once.
    """
    if one.role == "tuning":
        return 0
    version, command = version or code_version(), command or shlex.join(sys.argv)
    own = [look for look in read_looks(path) if (look["set"], look["task"]) == (one.name, one.task)]
    before = [look for look in own if look["version"] == version]
    if any(look["command"] != command for look in before):
        raise ValueError(
            f"set {one.name} has judged version {version} for {one.task} by {before[0]['command']!r}; a version is "
            "judged once: go on with that command, or tune on the sets for tuning and judge the next version"
        )
    if not before:
        look = {"set": one.name, "task": one.task, "version": version, "command": command, "date": str(date.today())}
        with path.open("a") as file:
            file.write(json.dumps(look) + "\n")
    return count_looks(one.name, one.task, path)


def read_looks(path: Path = LOOKS) -> list[dict[str, Any]]:
    """All looks, the oldest first; a line may stand for several (``times``)."""
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


def count_looks(name: str, task: str, path: Path = LOOKS) -> int:
    """How often a set has been looked at for a task."""
    return sum(look.get("times", 1) for look in read_looks(path) if (look["set"], look["task"]) == (name, task))


def describe_looks(sets: Iterable[CellSet], path: Path = LOOKS) -> str:
    """A line for the foot of a table: how often each judging set has been looked at for its task."""
    judged = [f"{one.name} {count_looks(one.name, one.task, path)}" for one in sets if one.role == "judging"]
    return f"Looks at judging sets so far, all versions: {', '.join(judged)}." if judged else "No set judged."


def code_version(root: Path = Path(__file__).parents[1]) -> str:
    """The version of scfm and 8 letters that change with every change of its code or its settings."""
    digest = hashlib.sha256()
    for folder in CODE:
        for file in sorted([*(root / folder).rglob("*.py"), *(root / folder).rglob("*.yaml")]):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return f"{scfm.__version__}+{digest.hexdigest()[:8]}"
