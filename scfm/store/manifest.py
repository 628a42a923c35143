"""``manifest.json``: the checksum of every file of a store, and of itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from scfm.store.arrow import own_file, read_json
from scfm.store.layout import INFO, MANIFEST, META, REPORT, STATE, PartRecord, file_sha256, json_text, write_json

#: Methods of pandas that a stored rule may call on a column: they read values and do nothing else.
_METHODS = frozenset(
    {"str", "dt", "isin", "isna", "isnull", "notna", "notnull", "between", "abs", "round", "clip", "fillna", "astype"}
    | {"contains", "startswith", "endswith", "lower", "upper", "strip", "match", "fullmatch", "len"}
    | {"year", "month", "day"}
)


def write_manifest(folder: Path, records: Sequence[PartRecord], more: Mapping[str, Any]) -> None:
    """Write the manifest, last of all files.

    Args:
        folder: the store.
        records: the parts, in order; those without cells are left out.
        more: further entries (options).
    """
    sums = {name: file_sha256(folder / name) for name in (META, INFO, STATE, REPORT) if (folder / name).is_file()}
    parts = [asdict(record) for record in records if record.cells]
    write_json(folder / MANIFEST, add_checksum({**more, "parts": parts, "files_sha256": sums}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a store; one that names other files, or rules that do more than read cells, is refused.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or not safe.
    """
    path = own_file(folder, MANIFEST)
    state = read_json(path, "the checksums of the parts")
    sums = state.get("files_sha256")
    if not isinstance(sums, dict) or not isinstance(state.get("parts"), list):
        raise ValueError(f"{path} is damaged: it does not list the parts and files of the store")
    for name in (*sums, *(part.name for part in read_parts(state, path))):
        own_file(folder, name)
    options = state.get("options")
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"{path} is damaged: it does not say with which options the store was made")
    quality = (options or {}).get("quality")
    expression = quality.get("expression") if isinstance(quality, dict) else None
    if expression is not None and not is_harmless(expression):
        raise ValueError(f"{path} has the rule {expression!r}, which may do more than look at cells: it is not safe")
    return state


def read_parts(manifest: Mapping[str, Any], where: Path) -> list[PartRecord]:
    """The parts that a manifest lists.

    Args:
        manifest: its JSON.
        where: its file, for messages.

    Raises:
        ValueError: a part is not described as it should be.
    """
    kinds = {field.name: field.type for field in fields(PartRecord)}
    for part in manifest["parts"]:
        right = isinstance(part, dict) and part.keys() == kinds.keys()
        if not right or any(type(value) is not kinds[name] for name, value in part.items()):
            raise ValueError(f"{where} is damaged: it describes a part by {str(part)[:200]}")
    return [PartRecord(**part) for part in manifest["parts"]]


def is_harmless(expression: Any) -> bool:
    """Whether a rule for cells (``quality.expression``) only reads columns: pandas would also call their methods."""
    if not isinstance(expression, str) or "@" in expression or "__" in expression:
        return False
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", " ", expression)
    return set(re.findall(r"\.\s*([^\W\d]\w*)", bare)) <= _METHODS


def add_checksum(state: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own checksum ``sha256``, computed over its text without this entry."""
    bare = {key: value for key, value in state.items() if key != "sha256"}
    return {**bare, "sha256": hashlib.sha256(json_text(bare).encode()).hexdigest()}


def manifest_fault(folder: Path) -> str | None:
    """What is wrong with the manifest itself, in a sentence.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        state = read_manifest(folder)
    except ValueError as error:
        return str(error)
    if "sha256" not in state:
        return f"{MANIFEST} has no checksum of itself: it is damaged, or of an older scfm (prepare the cells again)"
    if (folder / MANIFEST).read_text(encoding="utf-8") != json_text(add_checksum(state)):
        return f"{MANIFEST} has changed since it was written: its checksum differs"
    return None
