"""Builds objects from the config, and checks the whole config before data or GPU is touched.

A class's signature is the schema of its yaml: every key beside ``_target_`` must be an argument of the target, of its
annotated type. There is no second schema to keep in step.
"""

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scfm.migrate import accept_old_keys
from scfm.trust.allowed import (
    ALLOWED,
    CONFIGS,
    EXTENSIONS,
    STORED_PARTS,
    is_allowed,
    is_defined_there,
    stored_faults,
    trust_extensions,
    trusted_prefixes,
)

__all__ = ["ALLOWED", "EXTENSIONS", "build", "check", "check_stored", "compose_part", "plain", "shipped", "target"]

_OWN_KEYS = {"_target_", "_partial_", "_convert_", "_args_", "_recursive_"}


def build(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The object a config node describes; what only the run knows is passed as Python arguments.

    This is the only call of ``instantiate`` in scfm: run-time values never pass through the config, where dataclasses
    would turn into dictionaries.
    """
    return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(*args, **kwargs)


def compose_part(group: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a shipped yaml with some of its keys changed, checked as a command's config is.

    Args:
        group: a folder of ``configs/``.
        name: of the yaml in it.
        options: keys to change.

    Raises:
        ValueError: no such yaml, or options that its class does not take.
    """
    folder = CONFIGS / group
    names = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    if name not in names:
        raise ValueError(_unknown(f"{group}={name}", name, names))
    node = plain(typing.cast("DictConfig", OmegaConf.load(folder / f"{name}.yaml"))) | dict(options)
    errors = list(_check_nodes(node, group))
    if errors:
        raise ValueError("; ".join(errors))
    return node


def target(node: Mapping[str, Any]) -> Any:
    """The class or function a node names."""
    return hydra.utils.get_object(node["_target_"])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain Python values, interpolations resolved: what checkpoints and loggers store."""
    return typing.cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def shipped(configs: Path, name: str) -> dict[str, Any]:
    """The keys that a command knows, with their defaults: those of its yaml, and of the yaml files it inherits.

    Groups of the defaults lists are keys with value None: what lies in them is checked by signature.
    """
    known: dict[str, Any] = {}
    raw = typing.cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(configs / f"{name}.yaml"), resolve=False))
    for entry in raw.pop("defaults", ()):
        if isinstance(entry, dict):
            group = str(next(iter(entry)))
            if not group.startswith("override "):
                known[group.removeprefix("optional ").split("/")[0]] = None
        elif entry != "_self_":
            known |= shipped(configs, entry)
    return known | {key: value for key, value in raw.items() if key != "hydra" and key not in known}


def import_extensions(modules: Iterable[str]) -> None:
    """Import modules that the user names, and let configs name what lies in them, see :func:`trust_extensions`."""
    for module in modules:
        importlib.import_module(module)
        trust_extensions([module])


def check(cfg: DictConfig, known: Mapping[str, Any]) -> None:
    """Compare every node with the signature it stands for, and report all that is wrong at once.

    From here on, configs of this process may name the modules of its key ``extensions``: stored configs too.

    Args:
        cfg: the composed config.
        known: the keys of the command, see :func:`shipped`.

    Raises:
        ValueError: a list of all unknown keys (with the nearest known one), values of the wrong type, targets outside
            the allow-list, missing values and interpolations that lead nowhere.
    """
    accept_old_keys(cfg)
    try:
        values = plain(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(f"the config cannot be resolved: {error}") from error
    trust_extensions(values.get(EXTENSIONS) or ())
    errors = [*_check_keys(values, known, ""), *_check_nodes(values, "")]
    if errors:
        listed = "\n".join(f"  - {error}" for error in errors)
        raise ValueError(f"the config has {len(errors)} error(s):\n{listed}\nSee all keys with --cfg job.")


def check_stored(config: Mapping[str, Any], where: str) -> None:
    """Refuse a stored config that names what it must not; what is in it is imported after that alone.

    Args:
        config: plain values, migrated (:func:`scfm.migrate.migrate_config`).
        where: what holds it, for the message.

    Raises:
        ValueError: a target outside the allow-list at any depth, or a part to be built that is not one of scfm's or of
            the user's, or does not fit its signature.
    """
    fault = next(stored_faults(config), None)
    if fault is None:
        parts = {name: config[name] for name in STORED_PARTS if name in config}
        fault = next(_check_nodes(parts, ""), None)
    if fault is not None:
        raise ValueError(f"{where} holds a config that is not safe or not whole, and nothing of it was run: {fault}")


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[str]:
    """Keys of a node without target, against the shipped yaml."""
    for key, value in values.items():
        if key not in known:
            yield _unknown(f"{path}{key}", key, known)
        elif isinstance(known[key], Mapping) and isinstance(value, Mapping) and "_target_" not in value:
            yield from _check_keys(value, known[key], f"{path}{key}.")


def _check_nodes(value: Any, path: str) -> Iterator[str]:
    """Every node with a target, at any depth."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _check_nodes(item, f"{path}[{i}]")
    if not isinstance(value, dict):
        if value == "???":
            yield f"{path} is missing; give it a value: {path}=..."
        return
    if "_target_" in value:
        yield from _check_signature(value, path)
    elif any(isinstance(item, dict) and "_target_" in item for item in value.values()) and path:
        yield from _check_collection(value, path)
    for key, item in value.items():
        yield from _check_nodes(item, f"{path}.{key}" if path else str(key))


def _check_collection(value: Mapping[str, Any], path: str) -> Iterator[str]:
    """A dictionary of parts (callbacks, loggers): each entry is a part, or null to leave it out."""
    parts = [key for key, item in value.items() if isinstance(item, dict) and "_target_" in item]
    for key, item in value.items():
        if item is not None and key not in parts:
            yield _unknown(f"{path}.{key}", key, parts)


def _check_signature(node: Mapping[str, Any], path: str) -> Iterator[str]:
    name = node["_target_"]
    beginnings = ", ".join(ALLOWED + trusted_prefixes())
    if not is_allowed(name):
        yield f"{path}._target_={name} is not allowed; expected a class whose name begins with one of {beginnings}"
        return
    try:
        made = hydra.utils.get_object(name)
    except Exception as error:  # the import of a user's module can fail in any way; it becomes one line of the report
        yield f"{path}._target_={name} cannot be imported: {error}"
        return
    if not is_defined_there(made):
        yield f"{path}._target_={name} is not allowed: it is defined elsewhere; expected a class of {beginnings}"
        return
    arguments = _arguments(made)
    if arguments is None:
        return
    for key, value in node.items():
        if key in _OWN_KEYS:
            continue
        if key not in arguments:
            yield _unknown(f"{path}.{key}", key, arguments)
        elif not _fits(value, arguments[key].hint):
            yield f"{path}.{key}={value!r} is {type(value).__name__}; expected {_readable(arguments[key].hint)}"
    for key, argument in arguments.items():
        if argument.required and key not in node:
            yield f"{path}.{key} is missing; give it a value: {path}.{key}=..."


class _Argument(NamedTuple):
    hint: Any
    required: bool


def _arguments(made: Callable[..., Any]) -> dict[str, _Argument] | None:
    """What can be given by name, ``**options: Unpack[SomeTypedDict]`` (PEP 692) spelt out; None where any name goes."""
    hints, arguments = _hints(made), dict[str, _Argument]()
    for key, parameter in inspect.signature(made).parameters.items():
        hint = hints.get(key, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            if typing.get_origin(hint) is not typing.Unpack:
                return None
            (options,) = typing.get_args(hint)
            plain_hints, marked = typing.get_type_hints(options), typing.get_type_hints(options, include_extras=True)
            for name, one in plain_hints.items():
                arguments[name] = _Argument(one, typing.get_origin(marked[name]) is typing.Required)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            by_name = parameter.kind is parameter.KEYWORD_ONLY
            arguments[key] = _Argument(hint, by_name and parameter.default is parameter.empty)
    return arguments


def _unknown(path: str, key: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
    return f"{path} is unknown; {hint}"


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments, as far as they can be resolved (some libraries' cannot)."""
    function = made.__init__ if inspect.isclass(made) else made
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be passed where ``hint`` is expected; what cannot be judged passes."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or value == "???" or (isinstance(value, dict) and "_target_" in value):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, dict, list):
        return isinstance(value, hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, args[1]) for item in value.values())
    return True


def _readable(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
