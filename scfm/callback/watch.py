"""A watchdog: ends a run without progress, and names the rank that it waits for."""

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from typing import Any

import pytorch_lightning as pl
from torch import distributed

log = logging.getLogger(__name__)

#: Exit code of a rank that ended for lack of progress (EX_SOFTWARE of sysexits.h).
STALLED = 70


class Watch(pl.Callback):
    """A thread in every rank that reports the activity of its rank and reads the reports of the others.

    When a rank has made no progress for ``minutes``, its thread names the rank that blocks the run: one that no longer
    reports (its process or machine is gone), one that waits for data, or one that computes. It then prints the stack of
    every thread and ends the process, so that the launcher ends the others.

    Args:
        minutes: how long a single batch, validation batch or checkpoint may take.
        sign_of_life: seconds between reports.
    """

    def __init__(self, *, minutes: float = 15.0, sign_of_life: float = 5.0) -> None:
        self.limit, self.interval = 60 * minutes, min(sign_of_life, 20 * minutes)
        self._activity, self._since = "starting", time.monotonic()
        self._stop = threading.Event()
        self._reports: dict[int, tuple[str, float]] = {}
        self._store: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the thread."""
        self.rank, self.world = trainer.global_rank, trainer.world_size
        if self.world > 1:
            store = distributed.distributed_c10d._get_default_store()
            self._store = store.clone() if hasattr(store, "clone") else store
        self._stop.clear()
        self._set_activity("waiting for its data", trainer)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _set_activity(self, what: str, trainer: pl.Trainer) -> None:
        self._activity, self._since = f"{what} (optimizer step {trainer.global_step})", time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Data has arrived."""
        self._set_activity("computing", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """The rank waits for the next batch."""
        self._set_activity("waiting for its data", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Validation is progress, too."""
        self._set_activity("validating", trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, *args: Any) -> None:
        """The rank saves."""
        self._set_activity("saving a checkpoint", trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop the thread."""
        self._stop.set()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Name the rank that is gone: a failed collective does not, but the missing reports do."""
        self._stop.set()
        if self._store is not None and isinstance(exception, RuntimeError):
            self._read_reports()
            time.sleep(3 * self.interval)
            self._read_reports()
            log.error("Rank %d: %s. %s", self.rank, exception, self._name_blocking_ranks())

    def _watch(self) -> None:
        count, before = 0, time.monotonic()
        while not self._stop.wait(self.interval if count else 0.0):
            count += 1
            now = time.monotonic()
            if now - before > 3 * self.interval:  # the process was stopped (Ctrl-Z), or the machine slept
                self._since += now - before
            before = now
            stuck = time.monotonic() - self._since
            if self._store is not None:
                try:
                    self._store.set(f"scfm/{self.rank}", json.dumps([count, self._activity, round(stuck)]))
                    self._read_reports()
                except RuntimeError:  # the store lives in the first rank's process
                    self._reports[0] = ("gone: it does not answer", 0.0)
            if stuck > self.limit and not self._stop.is_set():
                log.critical(
                    "No progress for %.0f s on rank %d, %s. %s",
                    stuck,
                    self.rank,
                    self._activity,
                    self._name_blocking_ranks(),
                )
                faulthandler.dump_traceback(sys.stderr)
                logging.shutdown()
                os._exit(STALLED)

    def _read_reports(self) -> None:
        """Read the reports of the others and note when each last changed."""
        for rank in range(self.world):
            key = f"scfm/{rank}"
            if rank != self.rank and self._store.check([key]):
                report = self._store.get(key).decode()
                if self._reports.get(rank, ("", 0.0))[0] != report:
                    self._reports[rank] = (report, time.monotonic())

    def _name_blocking_ranks(self) -> str:
        """One sentence on the ranks that block the run."""
        if self.world == 1:
            waits = "data" in self._activity
            return "The loader waits for data: look at the disk and at data.workers." if waits else ""
        now, blocking = time.monotonic(), []
        for rank in range(self.world):
            if rank == self.rank:
                continue
            report, heard = self._reports.get(rank, ("", 0.0))
            silent = now - heard
            if not report.startswith("["):
                blocking.append(f"rank {rank} is {report or 'silent: it has never reported'}")
            elif silent > 2.5 * self.interval:
                blocking.append(f"rank {rank} is silent for {silent:.0f} s: its process or machine is gone")
            elif json.loads(report)[2] >= self.interval:
                blocking.append(f"rank {rank} has been {json.loads(report)[1]} for {json.loads(report)[2]} s")
        causes = [text for text in blocking if "data" in text or "silent" in text or "gone" in text]
        return "; ".join(causes or blocking) or "The other ranks make progress: this rank blocks them."
