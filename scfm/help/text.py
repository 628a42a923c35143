"""``--help``: the keys of a command as text for a terminal."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from scfm.help.keys import Choice, Key, command_groups, read_choice, read_command
from scfm.trust.allowed import CONFIGS

#: Width of the column of keys.
LEFT = 30
FLAGS = """\
  --help KEY             explains a key, a group (--help model) or a choice
                         (--help model=tgpt)
  --cfg job              prints the config as it would run
  --version              prints the version of scfm
  -m, --multirun         runs every combination: optim.lr=1e-4,1e-3
  --config-dir DIR       finds yaml files of your own
  -sc install=bash       prints what makes TAB complete keys and choices:
                         eval "$(scfm-train -sc install=bash)"
  hydra.verbose=true     shows where an error was raised"""


@dataclass(frozen=True)
class Help:
    """What the help of a command is made from.

    Attributes:
        command: its own keys and its groups.
        groups: group -> choices by name.
        header: what it does, and examples.
        name: as typed, ``scfm-train``.
        width: of the screen.
    """

    command: Choice
    groups: Mapping[str, Mapping[str, Choice]]
    header: str
    name: str
    width: int = 80

    @classmethod
    def read(cls, command: str, folders: Sequence[Path] = (CONFIGS,), width: int | None = None) -> Help:
        """Read a command's yaml files.

        Args:
            command: without ``scfm-``.
            folders: of the shipped yaml files and of a user's own.
            width: columns; None for the terminal's.
        """
        own = read_command(command)
        raw = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text(encoding="utf-8"))
        header = raw.get("hydra", {}).get("help", {}).get("header", own.summary).rstrip()
        columns = width or min(shutil.get_terminal_size((100, 24)).columns, 120)
        return cls(own, command_groups(own, folders), header, f"scfm-{command}", columns)

    def show(self) -> str:
        """The whole help: what the command does, its keys, its groups, its flags."""
        required = [key for key in self.command.keys if key.default == "???"]
        optional = [key for key in self.command.keys if key.default != "???"]
        parts = [self.header]
        if required:
            parts.append(f"Must be given:\n{self._rows(required)}")
        if optional:
            parts.append(f"Keys and their defaults:\n{self._rows(optional)}")
        if self.groups:
            parts.append(f"Groups; each choice has keys of its own:\n{self._group_rows()}")
        parts.append(f"More:\n{FLAGS}")
        return "\n\n".join(parts)

    def explain(self, topic: str) -> str:
        """One key, node, group or choice.

        Raises:
            ValueError: the command has nothing of that name.
        """
        group, _, choice = topic.partition("=")
        if group in self.groups and choice:
            return self._explain_choice(group, choice)
        if group in self.groups:
            return self._explain_group(group)
        family, _, name = topic.partition("/")
        if name and family in self.groups:
            return self._explain_choice(family, name)
        return self._explain_key(group)

    def _explain_group(self, group: str) -> str:
        rows = [(f"{group}={name}", _first(choice.summary)) for name, choice in self.groups[group].items()]
        chosen = self.command.groups[group]
        parts = [f"{group}: {_chosen(group, chosen)}. The choices of {self.name}:\n{self._table(rows)}"]
        if chosen in self.groups[group]:
            parts.append(self._explain_choice(group, str(chosen)))
        return "\n\n".join(parts)

    def _explain_choice(self, group: str, name: str) -> str:
        choices = self.groups[group]
        if name not in choices:
            inside = {other: choice for other, choice in choices.items() if other.startswith(f"{name}/")}
            if not inside:
                raise ValueError(f"{self.name} has no {group}={name}; it has {', '.join(choices)}")
            return self._table([(f"{group}={other}", _first(choice.summary)) for other, choice in inside.items()])
        keys = list(_placed(group, choices[name]))
        rows = f"\n{self._rows(keys)}" if keys else "\n  (no keys)"
        summary = "\n".join(textwrap.fill(line, self.width) for line in choices[name].summary.splitlines())
        return f"{group}={name}:\n{summary}{rows}"

    def _explain_key(self, topic: str) -> str:
        own = [key for key in self._own() if key.name == topic or key.name.startswith(f"{topic}.")]
        if own:
            return self._rows(own)
        parts: dict[str, list[str]] = {}
        for group, choices in self.groups.items():
            for name, choice in choices.items():
                for key in _placed(group, choice):
                    if key.name == topic or key.name.startswith(f"{topic}.") or key.name.split(".")[-1] == topic:
                        parts.setdefault(self._rows([key]), []).append(f"{group}={name}")
        ending = [key for key in self._own() if key.name.split(".")[-1] == topic]
        if ending:
            parts = {self._rows(ending): []} | parts
        if not parts:
            raise ValueError(f"{self.name} has no key {topic!r}{self._nearest(topic)}")
        return "\n".join(f"{row}{self._where(names)}" for row, names in parts.items())

    def _own(self) -> Iterator[Key]:
        """The command's own keys, and those of the choices that are its defaults."""
        seen = {key.name for key in self.command.keys}
        yield from self.command.keys
        for group, name in self.command.groups.items():
            if name is not None and name in self.groups[group]:
                yield from (key for key in _placed(group, self.groups[group][name]) if key.name not in seen)

    def _where(self, names: Sequence[str]) -> str:
        if not names:
            return ""
        text = f"(of {', '.join(names)})"
        return "\n" + textwrap.fill(text, self.width, initial_indent=" " * 6, subsequent_indent=" " * 6)

    def _nearest(self, topic: str) -> str:
        names = {key.name for choices in self.groups.values() for choice in choices.values() for key in choice.keys}
        names |= {key.name for key in self._own()} | set(self.groups)
        near = difflib.get_close_matches(topic, sorted(names), n=3)
        return f"; did you mean {' or '.join(near)}?" if near else f"; {self.name} --help lists them"

    def _rows(self, keys: Sequence[Key]) -> str:
        return self._table([(f"{key.name}={key.default}" if key.default else key.name, key.text) for key in keys])

    def _group_rows(self) -> str:
        rows = []
        for group, choices in self.groups.items():
            chosen = self.command.groups[group]
            rows.append((f"{group}={'null' if chosen is None else chosen}", " | ".join(_families(choices))))
        return self._table(rows)

    def _table(self, rows: Sequence[tuple[str, str]]) -> str:
        lines = []
        for left, text in rows:
            wrapped = textwrap.wrap(text, max(self.width - LEFT - 4, 30), break_long_words=False) or [""]
            if len(left) > LEFT:
                lines.append(f"  {left}")
                lines += [f"  {'':{LEFT}}  {line}" for line in wrapped if line]
            else:
                lines.append(f"  {left:{LEFT}}  {wrapped[0]}".rstrip())
                lines += [f"  {'':{LEFT}}  {line}" for line in wrapped[1:]]
        return "\n".join(lines)


def _placed(group: str, choice: Choice) -> Iterator[Key]:
    """The keys of a choice as they are typed: below their group, or of the whole config."""
    for key in choice.keys:
        yield key if choice.top_level else Key(f"{group}.{key.name}", key.default, key.text)


def _families(choices: Mapping[str, Choice]) -> list[str]:
    """Names of choices; those of one family in braces: ``annotation/{classifier, pooled}``."""
    families: dict[str, list[str]] = {}
    for name in choices:
        family, _, member = name.rpartition("/")
        families.setdefault(family, []).append(member)
    return [
        item
        for family, members in families.items()
        for item in ([f"{family}/{{{', '.join(members)}}}"] if family else members)
    ]


def _chosen(group: str, choice: str | None) -> str:
    if choice == "???":
        return "must be given"
    return f"{group}={choice} unless you say otherwise" if choice else "none unless you say so"


def _first(summary: str) -> str:
    """The first sentence of a summary, without the command lines that follow it."""
    text = summary.split("\n")[0]
    return text.split(". ")[0].rstrip(".:")


def refuse_families(arguments: Sequence[str], folders: Sequence[Path] = (CONFIGS,)) -> None:
    """Refuse ``head=annotation``, which is a folder of choices, with the choices that are in it.

    Args:
        arguments: of the command line.
        folders: that hold groups.

    Raises:
        ValueError: a choice that is a folder.
    """
    for argument in arguments:
        group, equals, name = argument.lstrip("+").partition("=")
        if Path(name).is_absolute() or ".." in Path(name).parts:  # a folder of the user's, as of output=
            continue
        inside = [path for folder in folders for path in sorted((folder / group / name).glob("*.yaml"))]
        is_choice = any((folder / group / f"{name}.yaml").is_file() for folder in folders)
        if not (equals and name and "." not in group and group.isidentifier() and inside) or is_choice:
            continue
        listed = "\n".join(f"  {group}={name}/{path.stem}  {_first(read_choice(path).summary)}" for path in inside)
        raise ValueError(f"{group}={name} is a family of {group}s; choose one of them:\n{listed}")


def answer(command: str, arguments: Sequence[str], folders: Sequence[Path] = (CONFIGS,)) -> str | None:
    """The text that a command line asks for by ``--help`` or ``--version``; None where it asks for neither.

    Raises:
        ValueError: help on a key that the command does not have.
    """
    if "--version" in arguments:
        from scfm import __version__

        return f"scfm {__version__}"
    place = next((i for i, word in enumerate(arguments) if word in ("--help", "-h")), None)
    if place is None:
        return None
    page = Help.read(command, folders)
    topics = [word for word in arguments[place + 1 :] if not word.startswith("-")]
    return "\n\n".join(page.explain(topic) for topic in topics) if topics else page.show()
