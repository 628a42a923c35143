"""An analysis asks a trained model about cells: one class, one yaml under ``configs/analysis/``."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm import __version__
from scfm.analysis.result import Result
from scfm.inference.cell_input import CellInput, open_input
from scfm.inference.model import Model
from scfm.inference.options import Settings
from scfm.inference.parts import claim_parts
from scfm.io import atomic_write, hold, require_replaceable
from scfm.progress import Progress

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

#: Arrays of a part by name.
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """Where an analysis keeps the parts that are done, so that an interrupted run goes on.

    Attributes:
        folder: of the parts.
        settings: how cells are read; ``tokens_per_batch`` bounds a batch.
        progress: whether to show progress.
    """

    folder: Path
    settings: Settings
    progress: bool = False

    def part(self, name: str, make: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """Arrays that an earlier start of this run has written, or else makes and writes.

        Args:
            name: of the part, without an ending.
            make: computes it.
        """
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            arrays: dict[str, Any] = dict(make())
            with atomic_write(path) as part, part.open("wb") as file:
                np.savez(file, **arrays)
        with np.load(path) as stored:
            return {key: stored[key] for key in stored.files}

    def has(self, name: str) -> bool:
        """Whether a part is written."""
        return (self.folder / f"{name}.npz").is_file()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0, unit: str = "cell") -> Iterator[Callable[[int], None]]:
        """A progress bar with the time left; it is told how many more are done."""
        if not self.progress:
            yield lambda n: None
            return
        with Progress(title, total, done, unit) as bar:
            yield bar.advance


class Analysis(ABC):
    """Base of all analyses: a frozen dataclass whose fields are the keys of its yaml.

    Attributes:
        name: what commands and output call it.
        needs_counts: whether the cells must have counts, also where the tokenizer only ranks.
        seed: of everything random.
    """

    name: ClassVar[str]
    needs_counts: ClassVar[bool] = False
    seed: int

    @abstractmethod
    def compute(self, model: Model, cells: CellInput, work: Work) -> Result:
        """The result; users' mistakes are refused before any long work.

        Args:
            model: backbone, head and vocabulary, in evaluation mode.
            cells: open cells with their genes as columns of the model's vocabulary.
            work: keeps parts, shows progress.
        """

    def analyse(
        self,
        model: Model,
        cells: AnnData | str | Path,
        settings: Settings,
        *,
        output: str | Path | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Result:
        """Open the cells, compute, and write the folder where one is given.

        Args:
            model: a loaded checkpoint.
            cells: a file, or an AnnData in memory.
            settings: how cells are read.
            output: folder for tables, figures, ``report.html`` and ``manifest.json``; parts of an interrupted run lie
                beside it until it is whole. None writes nothing.
            overwrite: replace an output that exists.
            progress: show progress.

        Raises:
            FileExistsError: the output is there.
            BlockingIOError: another run is writing it.
            ValueError, FileNotFoundError: cells, model and options do not go together.
        """
        if not settings.rule.is_own:
            raise ValueError(
                "an analysis reads cells by the model's own rule: leave embedding_layer and embedding_pool out"
            )
        if output is None:
            with tempfile.TemporaryDirectory() as folder:
                return self._compute(model, cells, Work(Path(folder), settings, progress))
        output = Path(output)
        with hold(output.parent / f".{output.name}.lock", output):
            if output.exists() and not overwrite:
                raise FileExistsError(f"{output} exists; choose another output=... or set overwrite=true")
            files = [*model.checkpoint.files, *([cells] if isinstance(cells, str | Path) else [])]
            require_replaceable(output, {"manifest.json", "report.html"}, files)
            parts = output.parent / f".{output.name}.parts"
            claim_parts(parts, self._about(model, cells, settings), first=True)
            result = self._compute(model, cells, Work(parts, settings, progress))
            result.write(output)
            shutil.rmtree(parts)
        log.info("Report: %s", output / "report.html")
        return result

    def _compute(self, model: Model, cells: AnnData | str | Path, work: Work) -> Result:
        keep_counts = self.needs_counts or model.module.reads_counts
        with open_input(cells, model.checkpoint, work.settings.reading, keep_counts=keep_counts) as given:
            result = self.compute(model, given, work)
            manifest = {
                "analysis": self.name,
                "options": self._options(),
                "seed": self.seed,
                "input": str(given.cells.path),
                "n_cells": given.cells.n_cells,
                **given.provenance(model.checkpoint, model.backbone),
                "checkpoint_sha256": file_hash(model.checkpoint.path),
            }
        return replace(result, manifest=manifest)

    def _options(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    def _about(self, model: Model, cells: AnnData | str | Path, settings: Settings) -> dict[str, Any]:
        """What makes the parts of an interrupted run those of this one; cells in memory have no such proof."""
        source = Path(cells) if isinstance(cells, (str, Path)) else None
        where = uuid.uuid4().hex if source is None or not source.exists() else _stamp(source)
        return {
            "analysis": self.name,
            "options": self._options(),
            "cells": where,
            "checkpoint": _stamp(model.checkpoint.path),
            "reading": {**asdict(settings.reading)},
            "version": __version__,
        }


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder in the order of their names, as hex."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _stamp(path: Path) -> list[Any]:
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]
