"""Writes what a module predicts straight to disk, part of a file by part, so that memory does not grow with it."""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from scfm.batch import Batch
from scfm.io import atomic_write, write_text

log = logging.getLogger(__name__)
_RESULT = "result.json"


class PartWriter(BasePredictionWriter):
    """Collects the predictions of ``part_size`` rows of a file and writes them as one part, whole or not at all.

    Parts that are there need not be predicted again, whichever rank wrote them: an interrupted run goes on.

    Args:
        folder: where the parts go.
        part_size: rows of the file that a part stands for.
    """

    def __init__(self, folder: Path, part_size: int) -> None:
        super().__init__("batch")
        self.folder, self.part_size = folder, part_size
        self._part = -1
        self._held: list[Mapping[str, np.ndarray]] = []

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        prediction: Mapping[str, np.ndarray],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Hold a batch until its part is complete: a rank does one part after the other."""
        part = int(prediction["index"][0]) // self.part_size
        if part != self._part:
            self._flush()
            self._part = part
        self._held.append(prediction)

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the last part."""
        self._flush()

    def _flush(self) -> None:
        if self._held:
            arrays: dict[str, Any] = {
                name: np.concatenate([held[name] for held in self._held]) for name in self._held[0]
            }
            with atomic_write(self.folder / f"part-{self._part:08d}.npz") as part, part.open("wb") as file:
                np.savez(file, **arrays)
            self._held = []


def claim_parts(folder: Path, about: Mapping[str, Any], *, first: bool, seconds: float = 600.0) -> None:
    """Make the folder of the parts; parts of another input, checkpoint or options are removed.

    Args:
        folder: where they lie.
        about: plain values that the parts depend on.
        first: whether this is the first rank; the others wait for it.
        seconds: how long.

    Raises:
        FileNotFoundError: the first rank did not make the folder in time.
    """
    label, until = folder / "about.json", time.monotonic() + seconds
    while not (label.is_file() and label.read_text() == json.dumps(about)):
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_text(label, json.dumps(about))
        elif time.monotonic() > until:
            raise FileNotFoundError(f"rank 0 has not made {folder} within {seconds:.0f} seconds")
        else:
            time.sleep(0.2)
    log.info("%d part(s) of an earlier run are in %s.", len(parts_of(folder)), folder)


def note_result(folder: Path, result: Path, about: Mapping[str, Any]) -> None:
    """Remember the finished file, before it gets its name: a run may be stopped between that and its end.

    Args:
        folder: of the parts.
        result: the finished file.
        about: plain values of the command that made it.
    """
    write_text(folder / _RESULT, json.dumps({"file": _identity(result), "about": about}))


def is_result(folder: Path, output: Path, about: Mapping[str, Any]) -> bool:
    """Whether the output is the file that an earlier run of the same command finished before it was stopped."""
    note = folder / _RESULT
    if not (note.is_file() and output.is_file()):
        return False
    return bool(note.read_text() == json.dumps({"file": _identity(output), "about": about}))


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]


def parts_of(folder: Path) -> dict[int, Path]:
    """The parts that are written, by number."""
    return {int(path.stem.removeprefix("part-")): path for path in sorted(folder.glob("part-*.npz"))}


def join_parts(folder: Path, n_cells: int) -> dict[str, np.ndarray]:
    """The predictions of all rows, as arrays on disk; rows that no part holds are NaN.

    Args:
        folder: where the parts lie.
        n_cells: rows of the file.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in parts_of(folder).values():
        with np.load(path) as part:
            index = part["index"]
            for name in part.files:
                if name == "index":
                    continue
                values = part[name]
                if name not in arrays:  # a name may hold a label column's slash, so it names no file
                    shape = (n_cells, *values.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(
                        folder / f"array-{len(arrays)}.npy", mode="w+", dtype=np.float32, shape=shape
                    )
                    arrays[name][:] = np.nan
                arrays[name][index] = values
    return arrays
