"""Turns the roles of docstrings (``:func:`scfm.load```) into links of the site."""

import re
from pathlib import Path
from typing import Any

import griffe

_PACKAGE = Path(__file__).resolve().parents[2] / "scfm"
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|obj):`(~?)([\w.]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_LITERAL = re.compile(r"(?<!`)``([^`\n]+(?:\n[^`\n]+)?)``(?!`)")


class CrossReferences(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value)


def linked(text: str) -> str:
    """Roles that name a module, class or function of scfm become links, other roles and literals code.

    An ``Example:`` is called ``Examples:``, the section whose lines griffe shows as code.
    """
    text = _EXAMPLE.sub(r"\1Examples:", text)
    text = _LITERAL.sub(lambda found: f"`{' '.join(found[1].split())}`", text)
    return _ROLE.sub(_link, text)


def _link(found: re.Match[str]) -> str:
    name = found[2]
    shown = name.rsplit(".", 1)[-1] if found[1] else name
    return f"[`{shown}`][{name}]" if has_anchor(name) else f"`{shown}`"


def has_anchor(name: str) -> bool:
    """Whether the site describes an object of this dotted name: a module of scfm, or a public name at its top level."""
    first, *rest = name.split(".")
    path = _PACKAGE
    while first == "scfm" and rest and (path / rest[0]).is_dir():
        path, rest = path / rest[0], rest[1:]
    if first != "scfm" or not rest:
        return False
    module = (path / f"{rest[0]}.py").is_file()
    if len(rest) == 1:
        return module
    if not module or len(rest) != 2 or rest[1].startswith("_"):
        return False
    source = (path / f"{rest[0]}.py").read_text(encoding="utf-8")
    return re.search(rf"^(?:class|def|async def) {rest[1]}\b", source, re.MULTILINE) is not None
