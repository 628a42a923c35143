"""Refuse folders with links to files elsewhere, gzip that unpacks to very much, or a codec that runs code."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scfm.cells.formats.hdf5_limits import LARGE, MAX_RATIO

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
    for path in list_own_files(folder):
        if path.name in _METADATA:
            _check_metadata(path)


def list_own_files(folder: Path) -> list[Path]:
    """All files and folders of a folder, which may itself be a link.

    Raises:
        ValueError: one of them is a link that leads out.
    """
    root = folder.resolve()
    return [require_own_file(Path(entry.path), root) for entry in _entries(root)]


def require_own_file(path: Path, folder: Path) -> Path:
    """Refuse a link that leads out of a folder.

    Raises:
        ValueError: naming the link.
    """
    if path.is_symlink() and folder.resolve() not in path.resolve().parents:
        raise ValueError(f"is not safe: its {path.name} is a link to a file elsewhere; copy that in its place")
    return path


class UnpackedSizeError(ValueError):
    """A few bytes stand for more text than memory holds."""


class Unpacked(io.RawIOBase):
    """The text of a gzip file, refused where a few bytes stand for more than memory holds.

    Args:
        path: gzipped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file, self._name = gzip.GzipFile(path, "rb"), path.name
        self._limit, self._read = max(LARGE, MAX_RATIO * path.stat().st_size), 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See :class:`io.RawIOBase`.

        Raises:
            UnpackedSizeError: more was unpacked than the file can hold.
        """
        n = self._file.readinto(buffer)
        self._read += n
        if self._read > self._limit:
            raise UnpackedSizeError(
                f"its {self._name} unpacks to more than {self._limit / 1e6:,.0f} MB, {MAX_RATIO} times its own size, "
                "which no file of counts or names does; write it again"
            )
        return n

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def open_text(path: Path) -> IO[bytes]:
    """A file that is gzipped or not, whatever its name says, to be read as bytes; past a byte order mark of UTF-8."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    text: IO[bytes] = io.BufferedReader(Unpacked(path), 1 << 20) if zipped else path.open("rb")
    mark = text.peek(3)[:3] if isinstance(text, io.BufferedReader) else b""
    if mark == b"\xef\xbb\xbf":
        text.read(3)
    return text


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
