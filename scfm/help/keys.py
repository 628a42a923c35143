"""Keys, defaults and explanations as they stand in the yaml files.

An explanation is the comment behind a key or, where there is none, what the docstring of the yaml's ``_target_`` says
of the argument. Nothing is composed and nothing is imported, so that help answers at once.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from scfm.trust.allowed import CONFIGS

_PACKAGE = Path(__file__).resolve().parents[1]
_COMMENT = re.compile(r"\s+#\s*(.*)$|^#\s*(.*)$")
_ARGUMENT = re.compile(r"^(?P<names>\w+(?:, \w+)*)(?: \([^)]*\))?:\s*(?P<text>.*)$")
_HIDDEN = ("_target_", "_partial_", "hydra", "defaults")


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: with the dots of the nodes around it.
        default: as the yaml writes it; ``???`` must be given.
        text: its explanation; empty where there is none.
    """

    name: str
    default: str
    text: str


@dataclass(frozen=True)
class Choice:
    """One yaml file: a command, or a choice of a group.

    Attributes:
        name: without ``.yaml``; with a slash in a group of groups, ``annotation/classifier``.
        summary: the comment at its top.
        keys: its own keys, then those that it inherits and does not change.
        groups: group -> the chosen default, or None.
        top_level: whether its keys are those of the whole config, not of its group.
    """

    name: str
    summary: str
    keys: tuple[Key, ...]
    groups: dict[str, str | None]
    top_level: bool = False


def read_choice(path: Path, name: str = "") -> Choice:
    """Read one yaml file and those that it inherits.

    Args:
        path: of the file.
        name: of the choice; the file's stem by default.
    """
    text = path.read_text(encoding="utf-8")
    lines, root = text.splitlines(), yaml.compose(text)
    inherited: dict[str, Key] = {}
    groups: dict[str, str | None] = {}
    nodes = root.value if isinstance(root, yaml.MappingNode) else []
    named = {key.value: value for key, value in nodes}
    entries = yaml.safe_load(text).get("defaults", []) if "defaults" in named else []
    for entry in entries:
        if isinstance(entry, dict):
            _note_group(groups, entry)
        elif entry != "_self_":
            parent = read_choice(path.parent / f"{entry.split('@')[0]}.yaml")
            prefix = f"{entry.split('@')[1]}." if "@" in entry else ""
            inherited |= {f"{prefix}{key.name}": replace(key, name=f"{prefix}{key.name}") for key in parent.keys}
            groups |= parent.groups
    keys = {key.name: key for key in _node_keys(nodes, lines, "")}
    for known in inherited.values():
        own = keys.setdefault(known.name, known)
        keys[known.name] = replace(own, text=own.text or known.text)
    top_level = bool(lines) and "@package _global_" in lines[0]
    return Choice(name or path.stem, _summary(lines), tuple(keys.values()), groups, top_level)


def _note_group(groups: dict[str, str | None], entry: dict[str, str | None]) -> None:
    name, choice = next(iter(entry.items()))
    name = name.removeprefix("override ").removeprefix("optional ").lstrip("/")
    if not name.startswith("hydra/"):
        groups[name] = choice


def _summary(lines: Sequence[str]) -> str:
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "@package" not in line:
            top.append(line.lstrip("# ").rstrip())
    return "\n".join(top)


def _node_keys(pairs: Sequence[tuple[yaml.Node, yaml.Node]], lines: Sequence[str], prefix: str) -> Iterator[Key]:
    target = next((value.value for key, value in pairs if key.value == "_target_"), None)
    explained = arguments(target) if target else {}
    for key, value in pairs:
        if key.value in _HIDDEN:
            continue
        name = f"{prefix}{key.value}"
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = key.end_mark if nested or value.end_mark.line > value.start_mark.line else value.end_mark
        text = _comment(lines[end.line], end.column) or explained.get(key.value, "").removesuffix(".")
        if nested:
            below = list(_node_keys(value.value, lines, f"{name}."))
            yield from (replace(item, text=item.text or text) for item in below)
            if not below:
                yield Key(name, "", text)
        else:
            yield Key(name, _default(value, lines), text)


def _comment(line: str, column: int) -> str:
    found = _COMMENT.search(line, column)
    return (found[1] or found[2] or "").strip() if found else ""


def _default(node: yaml.Node, lines: Sequence[str]) -> str:
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column] or "null"
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return " ".join(line.strip() for line in lines[start.line : end.line])


@cache
def arguments(target: str) -> dict[str, str]:
    """What a docstring of scfm says of the arguments of a class or function, read without importing it.

    Args:
        target: dotted name; one outside of scfm has no explanations.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith("scfm."):
        return {}
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if getattr(node, "name", None) == name), None)
    if not isinstance(found, (ast.ClassDef, ast.FunctionDef)):
        return {}
    return dict(_described(ast.get_docstring(found) or ""))


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of each argument in the sections ``Args`` and ``Attributes`` of a Google docstring."""
    inside, names, text = False, [""], ""
    for line in [*inspect.cleandoc(docstring).splitlines(), "end:"]:
        if line and not line.startswith(" "):
            yield from ((name, text) for name in names if name)
            inside, names = line in ("Args:", "Attributes:"), [""]
        elif inside and (begun := _ARGUMENT.match(line[4:])):
            yield from ((name, text) for name in names if name)
            names, text = begun["names"].split(", "), begun["text"].strip()
        elif inside:
            text = f"{text} {line.strip()}".strip()


def read_command(command: str, configs: Path = CONFIGS) -> Choice:
    """The keys and groups of a command.

    Raises:
        FileNotFoundError: there is no such command.
    """
    return read_choice(configs / f"{command}.yaml")


def read_group(group: str, folders: Sequence[Path] = (CONFIGS,)) -> dict[str, Choice]:
    """The choices of a group by name, of the shipped yaml files and of those in a user's own folders.

    Args:
        group: a folder's name.
        folders: that hold it.
    """
    found = {}
    for folder in folders:
        for path in sorted((folder / group).rglob("*.yaml")):
            name = str(path.relative_to(folder / group).with_suffix(""))
            found[name] = read_choice(path, name)
    return found


def command_groups(command: Choice, folders: Sequence[Path] = (CONFIGS,)) -> dict[str, dict[str, Choice]]:
    """The groups that a command has, each with those of its choices that the command can take.

    A recipe (``experiment``) changes choices of other groups: one that changes a group which the command does not have
    belongs to another command.
    """
    return {
        group: {
            name: choice
            for name, choice in read_group(group, folders).items()
            if set(choice.groups) <= set(command.groups)
        }
        for group in command.groups
    }
