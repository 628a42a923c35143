"""The progress bar of a terminal; a log that is no terminal gets plain lines instead."""

import sys

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, shown on a terminal only: in a file, its redrawn lines hide those of the log.

    Args:
        refresh_rate: micro-batches between two updates.
    """

    def __init__(self, *, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Turn the bar off where the screen is no terminal."""
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()
