"""Writes what a module predicts straight to disk, so that memory does not grow with the number of cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from scfm.types import Batch


class ArrayWriter(BasePredictionWriter):
    """Collects predictions into one memory-mapped array a name, at each cell's own row.

    Args:
        folder: where the ``NAME.npy`` files go.
        n_cells: rows of the arrays; rows that no batch holds stay NaN.
    """

    def __init__(self, folder: Path, n_cells: int) -> None:
        super().__init__("batch")
        self.folder, self.n_cells = folder, n_cells
        self.arrays: dict[str, np.memmap] = {}

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
        """Put a batch's rows where they belong."""
        index = prediction["index"]
        for name, values in prediction.items():
            if name != "index":
                self._array(name, values)[index] = values

    def _array(self, name: str, like: np.ndarray) -> Any:
        if name not in self.arrays:
            self.arrays[name] = np.lib.format.open_memmap(
                self.folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=(self.n_cells, *like.shape[1:])
            )
            self.arrays[name][:] = np.nan
        return self.arrays[name]
