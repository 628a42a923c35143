"""Checkpoint folders: written by all ranks under another name, renamed when they are whole."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scfm.io import PART, move_into_place, remove

#: Lists the files of a whole checkpoint folder and their sizes.
LIST = "files.json"
#: Describes a checkpoint folder, so that a run that cannot resume from it is refused before it starts.
ABOUT = "about.json"


def describe_checkpoint(checkpoint: Mapping[str, Any], kind: str, world: int) -> dict[str, Any]:
    """The content of :data:`ABOUT`.

    Args:
        checkpoint: what Lightning saves; its entry ``scfm`` has the vocabulary and the config.
        kind: the strategy that wrote it, such as ``fsdp2`` or ``deepspeed_zero3``.
        world: number of ranks.
    """
    own = checkpoint.get("scfm", {})
    return {"kind": kind, "world": world, "vocab_hash": own.get("vocab_hash"), "config": own.get("config", {})}


@contextmanager
def atomic_folder(
    final: Path, *, first: bool, barrier: Callable[[], object], about: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A folder to write into; it gets its name when all ranks have left the block.

    Args:
        final: the name; a checkpoint of that name is replaced.
        first: whether this is the first rank.
        barrier: waits for all ranks.
        about: written to the folder (see :func:`describe_checkpoint`).
    """
    aside = make_part_folder(final, first=first)
    barrier()
    try:
        yield aside
    except BaseException:  # the run ends: the parts of the other ranks are of no use
        remove(aside)
        raise
    barrier()
    if first:
        finish_folder(aside, final, about or {})
    barrier()


def make_part_folder(final: Path, *, first: bool) -> Path:
    """The unfinished folder for ``final``; the first rank makes it, empty."""
    aside = final.with_name(f".{final.name}{PART}")
    if first:
        remove(aside)
        aside.mkdir(parents=True)
    return aside


def finish_folder(aside: Path, final: Path, about: Mapping[str, Any]) -> None:
    """Rename a folder that all ranks have written, once it is on the disk; called by the first rank."""
    (aside / ABOUT).write_text(json.dumps(about))
    sizes = {str(path.relative_to(aside)): path.stat().st_size for path in sorted(aside.rglob("*")) if path.is_file()}
    (aside / LIST).write_text(json.dumps(sizes, indent=1))
    move_into_place(aside, final)


def list_missing(folder: Path) -> list[str]:
    """The files that a checkpoint folder lacks: missing or truncated ones, or the list itself."""
    if not (folder / LIST).is_file():
        return [LIST]
    sizes = json.loads((folder / LIST).read_text())
    return [name for name, size in sizes.items() if not _has(folder / name, size)]


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
