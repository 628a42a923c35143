"""Refuse zarr folders with links to files elsewhere, or with a codec that runs code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_METADATA = (".zarray", ".zgroup", ".zmetadata", "zarr.json")
#: Codecs of numcodecs that unpickle what they read; some releases of zarr take them.
_CODECS = {"pickle", "numcodecs.pickle"}
#: Metadata of one file, in bytes.
_LIMIT = 1 << 28


def require_own_chunks(folder: Path) -> None:
    """Refuse a zarr folder with links that lead out of it, or with a codec that runs code.

    Raises:
        ValueError: naming the file.
    """
    root = folder.resolve()
    for entry in _entries(root):
        if entry.is_symlink() and root not in Path(entry.path).resolve().parents:
            raise ValueError(f"is not safe: its {entry.name} is a link to a file elsewhere; copy that in its place")
        if entry.name in _METADATA:
            _check_metadata(Path(entry.path))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _check_metadata(path: Path) -> None:
    if path.stat().st_size > _LIMIT:
        raise ValueError(f"is damaged: its {path.name} has {path.stat().st_size:,} bytes of metadata")
    try:
        state = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its {path.parent.name}/{path.name} is no JSON ({error})") from error
    waiting: list[Any] = [state]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            named = [item.get(key) for key in ("id", "name")]
            if any(isinstance(name, str) and name in _CODECS for name in named):
                raise ValueError(f"is not safe: its {path.parent.name} is coded by 'pickle', which would run code")
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
