"""The options and inputs of ``prepare``, checked before a file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scfm.cells.quality import Quality
from scfm.store.writer import CELLS_PER_BATCH


@dataclass(frozen=True)
class Share:
    """One of several jobs that divide a run, from 1 to ``of``: ``share=3/16``, for the job arrays of a queue.

    Raises:
        ValueError: a number outside that range.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"share={self}; expected share=K/{self.of} with K from 1 to {self.of}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that ``3/16`` names.

        Raises:
            ValueError: another text.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise ValueError(f"share={text!r}; expected two whole numbers such as 3/16, the third of sixteen jobs")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def select_parts(self, parts: Mapping[str, int]) -> dict[str, int]:
        """The consecutive parts that fall to this share; every part falls to one.

        Args:
            parts: cells by key, of all parts.
        """
        items = list(parts.items())
        first, end = (len(items) * edge // self.of for edge in (self.number - 1, self.number))
        return dict(items[first:end])


@dataclass(frozen=True)
class Genes:
    """How genes are matched.

    Attributes:
        max_dropped: a file is refused if more than this share of its counts has no token.
        policy: several columns of one gene: ``collapse`` (sum), ``first`` or ``refuse``.
        species: of the gene names: ``human``, ``mouse`` (through one-to-one orthologs) or ``other``.
        alias: path of a table with a name and an Ensembl id or symbol on each line, which is used first.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    max_dropped: float = 0.5
    policy: Literal["collapse", "first", "refuse"] = "collapse"
    species: Literal["human", "mouse", "other"] = "human"
    alias: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_dropped <= 1:
            raise ValueError(f"genes.max_dropped={self.max_dropped} is a share of counts, from 0 to 1")


@dataclass(frozen=True)
class Options:
    """Everything that the bytes of a store depend on except inputs and tokenizer. See ``prepare``."""

    obs: tuple[str, ...]
    group: str | None
    missing: Literal["refuse", "allow"]
    layer: str | None
    gene_column: str | None
    counts: Literal["required", "decimals_ok", "lognorm_ok"]
    mod: str
    on_duplicate_cells: Literal["refuse", "number", "ignore"]
    n_counts: str | None
    empty: Literal["refuse", "drop"]
    quality: Quality
    max_dropped: float
    policy: Literal["collapse", "first", "refuse"]
    species: Literal["human", "mouse", "other"]
    alias: Mapping[str, str]
    duplicates: Literal["keep", "report", "drop"]
    keep_counts: bool
    cells_per_part: int | None
    shuffle: bool
    seed: int
    limit: int | None
    categories: tuple[str, ...] = ()
    side: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        choices = {
            "missing": ("refuse", "allow"),
            "counts": ("required", "decimals_ok", "lognorm_ok"),
            "on_duplicate_cells": ("refuse", "number", "ignore"),
            "empty": ("refuse", "drop"),
            "duplicates": ("keep", "report", "drop"),
            "policy": ("collapse", "first", "refuse"),
            "species": ("human", "mouse", "other"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected {' or '.join(allowed)}")
        if self.cells_per_part is not None and self.cells_per_part < 1:
            raise ValueError(f"cells_per_part={self.cells_per_part}; at least one cell is needed")

    def part_size(self, n_cells: int) -> int:
        """Cells of a part: ``cells_per_part``, or as many as give a corpus of ``n_cells`` at most 512 parts."""
        if self.cells_per_part is not None:
            return self.cells_per_part
        batches = -(-n_cells // (512 * CELLS_PER_BATCH))
        return CELLS_PER_BATCH * max(2, batches)


def resolve_inputs(inputs: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
    """The input files in order, with size and time of change, by which a later start recognizes them.

    Args:
        inputs: paths, or patterns such as ``data/*.h5ad`` whose matches are sorted by name.

    Raises:
        FileNotFoundError: a path that is not there, or a pattern without a match.
        ValueError: no input, or one file twice.
    """
    paths: list[Path] = []
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        paths += _matches(Path(given).expanduser())
    if not paths:
        raise ValueError("no input was given; name files with input='data/*.h5ad'")
    _require_different(paths)
    return [
        {"path": str(path), "name": name, "size": _size(path), "mtime_ns": path.stat().st_mtime_ns}
        for path, name in zip(paths, _names(paths), strict=True)
    ]


def _require_different(paths: Sequence[Path]) -> None:
    """Refuse a file that is named twice, also by a link or by a relative and an absolute path."""
    named: dict[tuple[int, int], Path] = {}
    for path in paths:
        stat = path.stat()  # of the file that a link leads to
        other = named.setdefault((stat.st_dev, stat.st_ino), path)
        if other is not path:
            how = "" if other == path else f", also as {other}; leave one of them out"
            raise ValueError(f"{path} is among the inputs twice{how}")


def _matches(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    pattern = next((i for i, part in enumerate(path.parts) if any(sign in part for sign in "*?[")), None)
    if pattern is None:
        raise FileNotFoundError(f"there is no input {path}")
    found = sorted(Path(*path.parts[:pattern]).glob(str(Path(*path.parts[pattern:]))))
    if not found:
        raise FileNotFoundError(f"no file matches {path}")
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the files, with as many parent folders as make them unique; independent of the machine."""
    whole = [path.absolute() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
