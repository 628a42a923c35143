"""``manifest.json``: the checksum of every file of a store, and of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scfm.store.arrow import read_json
from scfm.store.layout import INFO, MANIFEST, META, REPORT, STATE, PartRecord, file_sha256, json_text, write_json


def write_manifest(folder: Path, records: Sequence[PartRecord], more: Mapping[str, Any]) -> None:
    """Write the manifest, last of all files.

    Args:
        folder: the store.
        records: the parts, in order; those without cells are left out.
        more: what else it says (options).
    """
    sums = {name: file_sha256(folder / name) for name in (META, INFO, STATE, REPORT) if (folder / name).is_file()}
    parts = [asdict(record) for record in records if record.cells]
    write_json(folder / MANIFEST, sealed({**more, "parts": parts, "files_sha256": sums}))


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with its own checksum, ``sha256``: that of its text without this entry."""
    bare = {key: value for key, value in state.items() if key != "sha256"}
    return {**bare, "sha256": hashlib.sha256(json_text(bare).encode()).hexdigest()}


def manifest_fault(folder: Path) -> str | None:
    """What is wrong with the manifest itself, in a sentence.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        state = read_json(folder / MANIFEST, "the checksums of the parts")
    except ValueError as error:
        return str(error)
    if "sha256" not in state:
        return f"{MANIFEST} has no checksum of itself: it is damaged, or of an older scfm (prepare the cells again)"
    if (folder / MANIFEST).read_text(encoding="utf-8") != json_text(sealed(state)):
        return f"{MANIFEST} has changed since it was written: its checksum differs"
    return None
