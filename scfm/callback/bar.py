"""The progress bar of a terminal; a log that is no terminal gets plain lines instead."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from scfm.batch import Batch
from scfm.progress import Progress


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

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar, short enough for 80 columns."""
        found = dict(super().get_metrics(trainer, pl_module))
        found.pop("cells_per_s", None)
        speed = found.pop("tokens_per_s", None)
        return {**found, "tokens/s": f"{speed / 1000:.1f}k"} if isinstance(speed, int | float) else found

    def on_validation_batch_start(self, *given: Any, **named: Any) -> None:
        """As Lightning has it, without the number of the one loader."""
        super().on_validation_batch_start(*given, **named)
        if not self.val_progress_bar.n:
            self.val_progress_bar.set_description("Validation")

    def on_test_batch_start(self, *given: Any, **named: Any) -> None:
        """As Lightning has it, without the number of the one loader."""
        super().on_test_batch_start(*given, **named)
        if not self.test_progress_bar.n:
            self.test_progress_bar.set_description("Testing")


class CellBar(pl.Callback):
    """Counts the cells of a prediction, with the time that is left, which Lightning's bar cannot tell of batches.

    Args:
        title: of the bar.
        total: cells of all processes.

    Attributes:
        done: cells that an earlier start finished.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self._bar: Progress | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, in the first process."""
        if trainer.is_global_zero:
            self._bar = Progress(self.title, self.total, self.done).__enter__()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Count the cells of a batch once for each process."""
        if self._bar is not None:
            self._bar.advance(batch.n_cells * trainer.world_size)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close it, with a line on the speed."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close it without a word."""
        if self._bar is not None:
            self._bar.__exit__(type(exception), exception, None)
