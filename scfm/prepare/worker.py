"""What a worker knows of a run: the plan, the tokenizer, the corpus tables, the open file. Kept between its parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scfm.cells.file import CellFile, open_cells
from scfm.cells.quality import Quality, mitochondrial
from scfm.genes import GeneMap
from scfm.prepare.workdir import Work
from scfm.store.arrow import read_json
from scfm.store.cell_hash import gene_weights
from scfm.store.obs_columns import Coder
from scfm.tokenizer import Tokenizer, from_dict


@dataclass(frozen=True)
class FileGenes:
    """Where the genes of one file go.

    Attributes:
        names: (G,) as found.
        columns: (G,) int32 token ids, -1 where there is none.
        excluded: (G,) bool, left out on purpose.
        weights: (G,) uint64, of the hash of a cell.
        mito: (G,) bool, mitochondrial.
        n_merged: columns that met an earlier one.
    """

    names: np.ndarray
    columns: np.ndarray
    excluded: np.ndarray
    weights: np.ndarray
    mito: np.ndarray
    n_merged: int


class Context:
    """One run of ``prepare``, as its folder tells it."""

    def __init__(self, folder: Path) -> None:
        self.work = Work.at(folder)
        self.plan: dict[str, Any] = read_json(folder / "plan.json", "what is prepared")
        self.options: dict[str, Any] = self.plan["options"]
        self.quality = Quality(**self.options["quality"])

    @property
    def parts(self) -> Path:
        """Where encoded parts go: into the store itself, or aside where they are arranged once more."""
        return self.work.folder / "parts" if self.arranged else self.work.store

    @property
    def arranged(self) -> bool:
        """Whether a second pass writes the parts in another order, or without some cells."""
        return bool(self.options["shuffle"] or self.options["duplicates"] == "drop")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, fitted."""
        return from_dict(self.state)

    @cached_property
    def state(self) -> dict[str, Any]:
        """The same as plain values."""
        return self.work.load("tokenizer")

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """The corpus-wide tables: ``columns``, ``cells`` of each file, ``cells_per_part``."""
        return self.work.load("corpus")

    @cached_property
    def coder(self) -> Coder:
        """Turns obs into codes."""
        return Coder(self.corpus["columns"])

    def where(self, file: int) -> str:
        """A file as messages name it."""
        return str(self.input(file)["path"])

    def input(self, file: int) -> dict[str, Any]:
        """A file by its number in the store; the first ones may be in it already."""
        return self.plan["inputs"][file - (self.plan["after"] or {"files": 0})["files"]]

    def open(self, file: int) -> CellFile:
        """The file, kept open until another one is asked for."""
        reading = {key: self.options[key] for key in READING}
        return _opened().get(self.where(file), self.input(file)["mtime_ns"], **reading)

    def range(self, file: int, part: int) -> tuple[int, int]:
        """First row of a part and the row after its last."""
        size = self.corpus["cells_per_part"]
        return part * size, min((part + 1) * size, self.cells(file))

    def cells(self, file: int) -> int:
        """Cells of a file that take part: all, or the first few in a dry run."""
        return int(self.corpus["cells"][str(file)])

    def obs_columns(self, cells: CellFile) -> list[str]:
        """The columns of obs that are read."""
        wanted = [*self.options["obs"], *self.quality.columns(cells.obs_columns, str(cells.path))]
        if self.options["n_counts"] is not None:
            wanted.append(self.options["n_counts"])
        return [name for name in dict.fromkeys(wanted) if name in cells.obs_columns]

    def mitochondrial(self, cells: CellFile) -> np.ndarray:
        """(G,) bool: the mitochondrial genes, where a rule asks for them."""
        if self.quality.max_mito is None:
            return np.zeros(len(cells.genes), dtype=bool)
        return mitochondrial(cells.genes, self.options["species"])

    @cached_property
    def harmonised(self) -> Callable[[tuple[str, ...]], tuple[GeneMap, np.ndarray]]:
        """The token of each of these genes, and its weight in the hash of a cell; most files of a corpus share them."""
        matching = {name: self.options[name] for name in ("policy", "species", "alias")}

        @lru_cache(maxsize=OPEN)
        def harmonise(names: tuple[str, ...]) -> tuple[GeneMap, np.ndarray]:
            found = self.tokenizer.harmonise(names, **matching)
            return found, gene_weights(found.columns, self.tokenizer.require_vocab().tokens)

        return harmonise

    def genes(self, file: int) -> FileGenes:
        """What the gene check found."""
        return _genes(self.work.folder / "genes" / f"{file:05d}.npz", self.input(file)["mtime_ns"])


#: Files that are kept open at a time.
OPEN = 8
#: Options that say how a file is read.
READING = ("layer", "gene_column", "counts", "mod", "on_duplicate_cells")


@lru_cache(maxsize=1)
def context(folder: str, mark: str) -> Context:
    """The run in a folder; ``mark`` is the name of its plan, so that another run is not taken for it."""
    return Context(Path(folder))


class _Opened:
    """The files that a process has open; threads share them."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Any, ...], CellFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, mtime: int, **reading: Any) -> CellFile:
        """This file, opened unless it is open. The least recently asked for is let go where there are too many."""
        key = (path, mtime, *reading.values())
        with self._lock:
            if key not in self._files:
                self._files[key] = open_cells(path, **reading)
            self._files.move_to_end(key)
            if len(self._files) > OPEN:
                self._files.popitem(last=False)
            return self._files[key]

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


@lru_cache(maxsize=1)
def _opened() -> _Opened:
    return _Opened()


@lru_cache(maxsize=OPEN)
def _genes(path: Path, mtime: int) -> FileGenes:
    with np.load(path) as state:
        return FileGenes(
            **{name: state[name] for name in state.files if name != "n_merged"}, n_merged=int(state["n_merged"])
        )


def release() -> None:
    """Forget the run and close its file (the process may live on)."""
    _opened().close()
    context.cache_clear()
    _genes.cache_clear()
