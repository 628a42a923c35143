"""Ends a run that has stopped moving, and says which rank it waits for."""

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

#: Exit code of a rank that ended because nothing moved (EX_SOFTWARE of sysexits.h).
STALLED = 70


class Watch(pl.Callback):
    """A thread beside every rank that reports what the rank is doing, and looks at what the others report.

    When a rank has done nothing for ``minutes``, its thread names the rank that holds the run up: one that is silent
    (its process or machine is gone), one that waits for its data, or one that computes; writes where every thread of
    this process stands; and ends the process, so that the launcher ends the others.

    Args:
        minutes: how long a single batch, validation batch or checkpoint may take.
        sign_of_life: seconds between two reports.
    """

    def __init__(self, *, minutes: float = 15.0, sign_of_life: float = 5.0) -> None:
        self.limit, self.interval = 60 * minutes, min(sign_of_life, 20 * minutes)
        self._doing, self._since = "starting", time.monotonic()
        self._stop = threading.Event()
        self._heard: dict[int, tuple[str, float]] = {}
        self._store: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin to watch."""
        self.rank, self.world = trainer.global_rank, trainer.world_size
        if self.world > 1:
            store = distributed.distributed_c10d._get_default_store()
            self._store = store.clone() if hasattr(store, "clone") else store
        self._stop.clear()
        self._do("waiting for its data", trainer)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _do(self, what: str, trainer: pl.Trainer) -> None:
        self._doing, self._since = f"{what} (optimizer step {trainer.global_step})", time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Data is there."""
        self._do("computing", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """The next batch is wanted."""
        self._do("waiting for its data", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Validation moves on too."""
        self._do("validating", trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, *args: Any) -> None:
        """Saving has begun."""
        self._do("saving a checkpoint", trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Nothing to watch any more."""
        self._stop.set()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """A collective that fails does not say which rank is gone; the silence of its reports does."""
        self._stop.set()
        if self._store is not None and isinstance(exception, RuntimeError):
            self._listen()
            time.sleep(3 * self.interval)
            self._listen()
            log.error("Rank %d: %s. %s", self.rank, exception, self._who())

    def _watch(self) -> None:
        count = 0
        while not self._stop.wait(self.interval if count else 0.0):
            count += 1
            stuck = time.monotonic() - self._since
            if self._store is not None:
                try:
                    self._store.set(f"scfm/{self.rank}", json.dumps([count, self._doing, round(stuck)]))
                    self._listen()
                except RuntimeError:  # the store lives in the first rank's process
                    self._heard[0] = ("gone: it no longer answers", 0.0)
            if stuck > self.limit and not self._stop.is_set():
                log.critical(
                    "Nothing has moved for %.0f s on rank %d, %s. %s", stuck, self.rank, self._doing, self._who()
                )
                faulthandler.dump_traceback(sys.stderr)
                logging.shutdown()
                os._exit(STALLED)

    def _listen(self) -> None:
        """Note what the others report, and when it last changed."""
        for rank in range(self.world):
            key = f"scfm/{rank}"
            if rank != self.rank and self._store.check([key]):
                said = self._store.get(key).decode()
                if self._heard.get(rank, ("", 0.0))[0] != said:
                    self._heard[rank] = (said, time.monotonic())

    def _who(self) -> str:
        """One sentence on the ranks that hold the run up."""
        if self.world == 1:
            return "A loader that waits for its data: look at the disk and at data.workers." * ("data" in self._doing)
        now, found = time.monotonic(), []
        for rank in range(self.world):
            if rank == self.rank:
                continue
            said, heard = self._heard.get(rank, ("", 0.0))
            silent = now - heard
            if not said.startswith("["):
                found.append(f"rank {rank} is {said or 'silent: it has never reported'}")
            elif silent > 2.5 * self.interval:
                found.append(f"rank {rank} is silent for {silent:.0f} s: its process or machine is gone")
            elif json.loads(said)[2] >= self.interval:
                found.append(f"rank {rank} has been {json.loads(said)[1]} for {json.loads(said)[2]} s")
        waits = [text for text in found if "data" in text or "silent" in text or "gone" in text] or found
        return "; ".join(waits) or "The other ranks move on: this rank holds them up."
