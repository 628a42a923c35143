"""Which classes and functions a config may name, decided by the name alone: before anything is imported."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parents[1]
#: In a wheel the yaml files lie in the package, in a checkout beside it.
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"

#: What a yaml may name. Never ``torch.`` as a whole: a config must not be able to run arbitrary code.
ALLOWED = ("scfm.", "torch.optim.", "torch.nn.", "pytorch_lightning.", "transformers.", "peft.")
#: A user's own parts live in a package or module of their own, named by ``extensions=[my_package]``.
EXTENSIONS = "extensions"
#: The only parts of a stored config that are built, and the folder of shipped yaml files that names their classes.
STORED_PARTS = ("model", "adapt", "head")

#: Widths, queues, numbers of neighbors and the like in a stored head or adapter.
MAX_SIZE = 1 << 20

_named: set[str] = set()
_TARGET = re.compile(r"^[^#\n]*_target_:\s*[\"']?([\w.]+)", re.MULTILINE)
_CLASS = re.compile(r"(?:[a-z][a-z0-9_]*\.)+[A-Z]\w*")
_FUNCTION = re.compile(r"(?:torch\.(?:optim|nn)|pytorch_lightning|transformers|peft)\.[a-z]\w*")


def trust_extensions(modules: Iterable[str]) -> None:
    """Let configs of this process, stored ones too, name what lies in these modules.

    Args:
        modules: what the user named, never what a file says.
    """
    _named.update(modules)


def trusted_prefixes() -> tuple[str, ...]:
    """Beginnings of the targets in modules that the user named."""
    return tuple(f"{name}." for name in sorted(_named))


@cache
def shipped_targets(group: str = "") -> frozenset[str]:
    """The targets in the yaml files that come with scfm.

    Args:
        group: a folder of them; all by default.
    """
    files = (CONFIGS / group).rglob("*.yaml")
    return frozenset(target for path in files for target in _TARGET.findall(path.read_text(encoding="utf-8")))


def is_allowed(target: Any) -> bool:
    """Whether a config may name this target: a class, a function of a shipped yaml, or a part of an extension."""
    if not isinstance(target, str):
        return False
    if target.startswith(trusted_prefixes()) or target in shipped_targets():
        return True
    return target.startswith(ALLOWED) and bool(_CLASS.fullmatch(target) or _FUNCTION.fullmatch(target))


def is_defined_there(made: Any) -> bool:
    """Whether an object comes from an allowed module, and was not only imported there (as ``os`` may be)."""
    home = getattr(made, "__module__", None)
    beginnings = (*ALLOWED, "lightning_fabric.", *trusted_prefixes())  # Lightning's plugins live in the former
    return isinstance(home, str) and f"{home}.".startswith(beginnings)


def stored_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What a stored config must not name, without importing anything.

    Args:
        config: plain values, under today's names.
    """
    for path, node in _nodes(config, ""):
        target = node["_target_"]
        if not is_allowed(target):
            yield f"{path or 'the config'} names {target!r}, which a config must not name{_advice(target)}"
    for part in STORED_PARTS:
        if part in config:
            yield from _part_faults(part, config[part])


def _part_faults(part: str, node: Any) -> Iterator[str]:
    """A part that is built from what was stored: one of the shipped ones or the user's, and of plain values."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    mine = isinstance(target, str) and (target in shipped_targets(part) or target.startswith(trusted_prefixes()))
    if not mine:
        known = ", ".join(sorted(shipped_targets(part)))
        yield f"{part} names {target!r}; expected one of {known}{_advice(target)}"
        return
    for path, inner in _nodes(node, part):
        name = inner["_target_"]
        shipped = name in shipped_targets(part) or str(name).startswith(("torch.nn.", *trusted_prefixes()))
        if inner is not node and not shipped:
            yield f"{path} names {name!r}, which a stored config must not build"
    yield from _odd_values(node, part)
    if part != "model":  # whose size is compared with that of its weights
        yield from _large_sizes(node, part)


def _large_sizes(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from () if key == "seed" else _large_sizes(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _large_sizes(item, f"{path}[{i}]")
    elif isinstance(value, int) and abs(value) > MAX_SIZE:
        yield f"{path}={value:,} is more than any part needs (at most {MAX_SIZE:,})"


def _odd_values(value: Any, path: str) -> Iterator[str]:
    """Keys and values with a meaning of their own to Hydra, OmegaConf or transformers."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if (key.startswith("_") and key != "_target_") or "attn_implementation" in key:
                yield f"{path} has the key {key!r}, which a stored config must not set"
            yield from _odd_values(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _odd_values(item, f"{path}[{i}]")
    elif isinstance(value, str) and ("${" in value or value == "???"):
        yield f"{path}={value!r} is not a plain value"


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a target, at any depth."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, value
        for key, item in value.items():
            yield from _nodes(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _nodes(item, f"{path}[{i}]")


def _advice(target: Any) -> str:
    """How to let a user's own part pass, where it can be one."""
    root = target.split(".")[0] if isinstance(target, str) else ""
    if not root.isidentifier() or root in sys.stdlib_module_names or root in sys.modules:
        return ""
    return f" (if it is a module of yours, name it: {EXTENSIONS}=[{root}])"
