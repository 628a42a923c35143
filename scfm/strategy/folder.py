"""Checkpoints that are folders: written aside by all ranks, renamed when they are whole, and listed inside."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Lists the files of a whole checkpoint folder and their sizes.
LIST = "files.json"


@contextmanager
def swap_in(final: Path, *, first: bool, barrier: Callable[[], object]) -> Iterator[Path]:
    """A folder to write into, that takes its name when all ranks have left the block.

    Args:
        final: the name; what lies there is replaced.
        first: whether this is the first rank.
        barrier: waits for all ranks.
    """
    aside = final.with_name(f".{final.name}.part")
    if first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    barrier()
    yield aside
    barrier()
    if first:
        sizes = {str(path.relative_to(aside)): _sync(path) for path in sorted(aside.rglob("*")) if path.is_file()}
        (aside / LIST).write_text(json.dumps(sizes, indent=1))
        _sync(aside / LIST)
        if final.is_dir():
            shutil.rmtree(final)
        else:
            final.unlink(missing_ok=True)
        aside.rename(final)
    barrier()


def missing(folder: Path) -> list[str]:
    """What a checkpoint folder lacks: files that are gone or cut off, or the list itself."""
    if not (folder / LIST).is_file():
        return [LIST]
    sizes = json.loads((folder / LIST).read_text())
    return [name for name, size in sizes.items() if not _has(folder / name, size)]


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _sync(path: Path) -> int:
    """Have the file on disk, not in a cache; its size."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size
