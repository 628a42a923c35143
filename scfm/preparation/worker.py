"""The state of a run in a worker: plan, tokenizer, corpus tables, open files. It is kept from part to part."""

from __future__ import annotations

import gc
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scfm.cells.file import CellFile, open_cells
from scfm.cells.quality import Quality, mitochondrial
from scfm.genes import GeneMap
from scfm.preparation.workdir import WorkDir
from scfm.store.arrow import read_json
from scfm.store.cell_hash import gene_weights
from scfm.store.obs_columns import Coder
from scfm.tokenizer import Tokenizer, from_dict


@dataclass(frozen=True)
class FileGenes:
    """The token of each gene of one file.

    Attributes:
        names: (G,) names in the file.
        columns: (G,) int32 token ids, -1 for a gene without one.
        excluded: (G,) bool, genes that are left out on purpose.
        weights: (G,) uint64, for the hash of a cell.
        mito: (G,) bool, mitochondrial genes.
        n_merged: columns whose gene has an earlier column.
        rescued: (G,) bool, genes with a token by a retired name alone; None if there are none.
    """

    names: np.ndarray
    columns: np.ndarray
    excluded: np.ndarray
    weights: np.ndarray
    mito: np.ndarray
    n_merged: int
    rescued: np.ndarray | None = None


class WorkerState:
    """One run of ``prepare``, read from its working folder.

    Attributes:
        n_counted: values that this process has counted for the statistics of a tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        self.n_counted = 0
        self.work = WorkDir.from_folder(folder)
        self.plan: dict[str, Any] = read_json(folder / "plan.json", "the plan of the run")
        self.options: dict[str, Any] = self.plan["options"]
        self.quality = Quality(**self.options["quality"])

    @property
    def parts_folder(self) -> Path:
        """The folder of the encoded parts: the store itself, or another one if a second pass rearranges them."""
        return self.work.folder / "parts" if self.has_second_pass else self.work.store

    @property
    def has_second_pass(self) -> bool:
        """Whether a second pass writes the cells in another order, or without duplicates."""
        return bool(self.options["shuffle"] or self.options["duplicates"] == "drop")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The fitted tokenizer."""
        return from_dict(self.tokenizer_state)

    @cached_property
    def tokenizer_state(self) -> dict[str, Any]:
        """The fitted tokenizer as plain values."""
        return self.work.load_state("tokenizer")

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """The corpus-wide tables: ``columns``, ``cells`` of each file, ``cells_per_part``."""
        return self.work.load_state("corpus")

    @cached_property
    def coder(self) -> Coder:
        """Turns obs into codes."""
        return Coder(self.corpus["columns"])

    def file_path(self, file: int) -> str:
        """The path of a file."""
        return str(self.file_entry(file)["path"])

    def file_entry(self, file: int) -> dict[str, Any]:
        """The entry of a file in the plan, by its number in the store, which may hold earlier files."""
        return self.plan["inputs"][file - (self.plan["after"] or {"files": 0})["files"]]

    def open_file(self, file: int) -> CellFile:
        """The file, open. The files used last stay open (:data:`OPEN`)."""
        reading = {key: self.options[key] for key in READING}
        return _open_files().get(self.file_path(file), self.file_entry(file)["mtime_ns"], **reading)

    def part_range(self, file: int, part: int) -> tuple[int, int]:
        """First row of a part, and one past its last row."""
        size = self.corpus["cells_per_part"]
        return part * size, min((part + 1) * size, self.n_cells(file))

    def n_cells(self, file: int) -> int:
        """Cells of a file that are prepared: all, or the first ``limit``."""
        return int(self.corpus["cells"][str(file)])

    def list_parts(self, files: Sequence[int]) -> dict[str, int]:
        """The cells of every part of some files, by its key ``FILE-PART``."""
        size = self.corpus["cells_per_part"]
        ranges = {
            f"{file:05d}-{part:05d}": self.part_range(file, part)
            for file in files
            for part in range(-(-self.n_cells(file) // size))
        }
        return {key: stop - start for key, (start, stop) in ranges.items()}

    def obs_columns(self, cells: CellFile) -> list[str]:
        """The obs columns to read."""
        wanted = [*self.options["obs"], *self.quality.columns(cells.obs_columns, str(cells.path))]
        if self.options["n_counts"] is not None:
            wanted.append(self.options["n_counts"])
        return [name for name in dict.fromkeys(wanted) if name in cells.obs_columns]

    def mito_genes(self, cells: CellFile) -> np.ndarray:
        """(G,) bool: the mitochondrial genes, if a quality rule needs them.

        Raises:
            ValueError: the rule needs them and there is none.
        """
        if self.quality.max_mito is None:
            return np.zeros(len(cells.genes), dtype=bool)
        mito = mitochondrial(cells.genes, self.options["species"])
        if not mito.any():
            raise ValueError(
                f"{cells.path}: quality.max_mito={self.quality.max_mito} needs mitochondrial genes (MT-...), and none "
                f"of the {len(mito):,} genes of {cells.genes_from} ({', '.join(cells.genes[:3])}, ...) is one; leave "
                f"quality.max_mito out, or name the var column of the genes (gene_column=...; it has "
                f"{', '.join(map(repr, cells.var_columns[:12]))})"
            )
        return mito

    @cached_property
    def map_genes(self) -> Callable[[tuple[str, ...]], tuple[GeneMap, np.ndarray]]:
        """From gene names to tokens and to weights in the hash of a cell; most files share their genes."""
        matching = {name: self.options[name] for name in ("policy", "species", "alias")}

        @lru_cache(maxsize=OPEN)
        def harmonize(names: tuple[str, ...]) -> tuple[GeneMap, np.ndarray]:
            """Tokens and weights of the genes of one file."""
            found = self.tokenizer.harmonize(names, **matching)
            return found, gene_weights(found.columns, self.tokenizer.require_vocab().tokens)

        return harmonize

    def file_genes(self, file: int) -> FileGenes:
        """The result of the gene check."""
        return _genes(self.work.folder / "genes" / f"{file:05d}.npz", self.file_entry(file)["mtime_ns"])


#: Files that are kept open at a time. Opening one again costs 20 to 50 ms, keeping it a few hundred kilobytes.
OPEN = 64
#: Options that say how a file is read.
READING = ("layer", "gene_column", "counts", "mod", "on_duplicate_cells")


@lru_cache(maxsize=1)
def worker_state(folder: str, plan_hash: str) -> WorkerState:
    """The state of the run in a folder; ``plan_hash`` keeps an earlier run in the same folder from being used."""
    return WorkerState(Path(folder))


def most_open() -> int:
    """Files that are kept open: :data:`OPEN`, or a quarter of what the process may open (``ulimit -n``)."""
    return max(1, min(OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class _OpenFiles:
    """The open files of a process, shared by its threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[Any, ...], CellFile] = OrderedDict()
        self._lock = threading.Lock()
        self._n_dropped = 0

    def get(self, path: str, mtime: int, **reading: Any) -> CellFile:
        """This file, opened if it is not. The least recently used file is dropped if there are too many."""
        key = (path, mtime, *reading.values())
        with self._lock:
            if key not in self._files:
                self._files[key] = open_cells(path, **reading)
            self._files.move_to_end(key)
            if len(self._files) > most_open():
                self._drop_oldest()
            return self._files[key]

    def _drop_oldest(self) -> None:
        """Let go of a file, which another thread may still read.

        Its parts refer to each other, so that it is closed when Python collects garbage, which is asked for before the
        process can open no more.
        """
        self._files.popitem(last=False)
        self._n_dropped += 1
        if self._n_dropped >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4:
            self._n_dropped = 0
            gc.collect()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


@lru_cache(maxsize=1)
def _open_files() -> _OpenFiles:
    return _OpenFiles()


@lru_cache(maxsize=OPEN)
def _genes(path: Path, mtime: int) -> FileGenes:
    with np.load(path) as state:
        return FileGenes(
            **{name: state[name] for name in state.files if name != "n_merged"}, n_merged=int(state["n_merged"])
        )


def close_files() -> None:
    """Close the files of a run and drop its state: the process may live on."""
    _open_files().close()
    worker_state.cache_clear()
    _genes.cache_clear()
