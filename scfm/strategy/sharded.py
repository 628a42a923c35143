"""Checkpoints that are folders: written aside by all ranks, renamed when they are whole, and listed inside."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scfm.io import PART, move_into_place, remove

#: Lists the files of a whole checkpoint folder and their sizes.
LIST = "files.json"
#: Says what a checkpoint folder is of, so that a run that cannot resume from it is refused before it starts.
ABOUT = "about.json"


def about_of(checkpoint: Mapping[str, Any], kind: str, world: int) -> dict[str, Any]:
    """What :data:`ABOUT` holds.

    Args:
        checkpoint: what Lightning saves; its entry ``scfm`` has the vocabulary and the config.
        kind: who wrote it, such as ``fsdp2`` or ``deepspeed_zero3``.
        world: ranks that did.
    """
    own = checkpoint.get("scfm", {})
    return {"kind": kind, "world": world, "vocab_hash": own.get("vocab_hash"), "config": own.get("config", {})}


@contextmanager
def swap_in(
    final: Path, *, first: bool, barrier: Callable[[], object], about: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A folder to write into, that takes its name when all ranks have left the block.

    Args:
        final: the name; what lies there is replaced.
        first: whether this is the first rank.
        barrier: waits for all ranks.
        about: written beside the parts (see :func:`about_of`).
    """
    aside = open_aside(final, first=first)
    barrier()
    try:
        yield aside
    except BaseException:  # the run ends; what the other ranks have written is of no use
        remove(aside)
        raise
    barrier()
    if first:
        settle(aside, final, about or {})
    barrier()


def open_aside(final: Path, *, first: bool) -> Path:
    """The folder beside ``final`` that is written into; the first rank makes it, empty."""
    aside = final.with_name(f".{final.name}{PART}")
    if first:
        remove(aside)
        aside.mkdir(parents=True)
    return aside


def settle(aside: Path, final: Path, about: Mapping[str, Any]) -> None:
    """Give a folder that all ranks have written its name, once every byte of it is on disk; by the first rank."""
    (aside / ABOUT).write_text(json.dumps(about))
    sizes = {str(path.relative_to(aside)): path.stat().st_size for path in sorted(aside.rglob("*")) if path.is_file()}
    (aside / LIST).write_text(json.dumps(sizes, indent=1))
    move_into_place(aside, final)


def missing(folder: Path) -> list[str]:
    """What a checkpoint folder lacks: files that are gone or cut off, or the list itself."""
    if not (folder / LIST).is_file():
        return [LIST]
    sizes = json.loads((folder / LIST).read_text())
    return [name for name, size in sizes.items() if not _has(folder / name, size)]


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
