"""Training speed: real tokens and cells per second of wall time, waiting for data included."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from scfm.batch import Batch

#: For the log file, and for a screen without a progress bar.
progress = logging.getLogger("scfm.progress")


class Throughput(pl.Callback):
    """Logs ``tokens_per_s``, ``cells_per_s`` (all devices together) and ``data_wait`` (share of wall time).

    On a GPU also ``memory_gb`` (peak), and on one whose data sheet is known ``mfu`` (model FLOPs utilization) and
    ``roof`` (speed as a share of the roofline of the device), see :mod:`scfm.model.flops`.

    Rates are over the time since the last log, with data, optimizer and logging, without validation. A packed batch has
    no padding: every token is a real one.
    """

    def __init__(self) -> None:
        self._restart(0.0)

    def _restart(self, now: float) -> None:
        self._since = self._left = now
        self._tokens = self._cells = 0
        self._squares: Any = 0
        self._waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._restart(time.perf_counter())

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Do not count the validation."""
        self._restart(time.perf_counter())

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The time since the last batch ended was spent waiting for this one."""
        self._waited += time.perf_counter() - self._left

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and log every ``log_every_n_steps`` micro-batches."""
        self._tokens += batch.n_tokens
        self._squares += (batch.lengths**2).sum() if batch.ids.is_cuda else 0
        self._cells += batch.n_cells
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            elapsed = max(time.perf_counter() - self._since, 1e-9)
            rates = {
                "tokens_per_s": self._tokens * trainer.world_size / elapsed,
                "cells_per_s": self._cells * trainer.world_size / elapsed,
            }
            module.log_dict(rates, prog_bar=True, batch_size=batch.n_cells)
            module.log("data_wait", self._waited / elapsed, batch_size=batch.n_cells)
            module.log_dict(self._of_device(trainer, module, rates["tokens_per_s"]), batch_size=batch.n_cells)
            self._write_line(trainer, outputs, rates)
            self._restart(time.perf_counter())
        self._left = time.perf_counter()

    def _of_device(self, trainer: pl.Trainer, module: pl.LightningModule, rate: float) -> dict[str, float]:
        """The metrics of a GPU."""
        if module.device.type != "cuda":
            return {}
        found = {"memory_gb": torch.cuda.max_memory_allocated(module.device) / 1e9}
        utilization = getattr(module, "utilization", None)
        if utilization is not None:
            found |= utilization(rate / trainer.world_size, float(self._squares) / max(self._tokens, 1))
        return found

    def _write_line(self, trainer: pl.Trainer, outputs: Any, rates: dict[str, float]) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        progress.info(
            "step %d loss %.4f, %.0f tokens/s, %.1f cells/s",
            trainer.global_step,
            float(loss.detach()) * trainer.accumulate_grad_batches if isinstance(loss, Tensor) else float("nan"),
            rates["tokens_per_s"],
            rates["cells_per_s"],
        )
