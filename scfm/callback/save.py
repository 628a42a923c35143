"""Saves a run at intervals and at a signal: at the end of an optimizer step, by all ranks together."""

import logging
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from scfm.callback.agreement import Agreement
from scfm.callback.metrics_table import MetricsTable
from scfm.callback.rescale import rescale_progress
from scfm.io import atomic_write, disk_full, remove, why_full
from scfm.progress import write_nowhere

log = logging.getLogger(__name__)

#: Exit code of a run that a signal stopped and that can be resumed (EX_TEMPFAIL of sysexits.h).
RESUME_ME = 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(SystemExit):
    """The run was saved after a signal and ends."""

    def __init__(self) -> None:
        super().__init__(RESUME_ME)


class Save(Checkpoint):
    """Writes ``step-N.ckpt`` at intervals and ``last.ckpt`` after the last step.

    At SIGTERM, SIGUSR1, SIGINT (Ctrl-C) or SIGHUP (a terminal that closes; not under ``nohup``) it writes one more and
    ends the run with exit code 75. A second Ctrl-C ends the run at once.

    A signal only sets a flag. The ranks compare their flags at the end of every optimizer step, so that a signal to
    one rank is enough and no rank saves alone. Under Slurm, SIGUSR1 (``#SBATCH --signal=USR1@120``) also requeues the
    job.

    Args:
        folder: where checkpoints go.
        every_n_train_steps: optimizer steps between them; null for none.
        every_n_minutes: minutes between them, by the first rank's clock; null for none.
        keep_last: number of checkpoints to keep.

    Raises:
        ValueError: fewer than one to keep.
    """

    def __init__(
        self,
        *,
        folder: str,
        every_n_train_steps: int | None = 100,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"callbacks.checkpoint.keep_last={keep_last}; at least 1 is needed to resume from")
        self.folder, self.keep_last = Path(folder), keep_last
        self.every_n_train_steps, self.every_n_minutes = every_n_train_steps, every_n_minutes
        #: Whether the last step of the run is saved.
        self.ended = False
        self._signal = 0
        self._step = 0
        self._written: list[Path] = []
        self._saved = self._stop = False
        self._waiting: float | None = None
        self._saved_at = time.monotonic()

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if number == signal.SIGINT:
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt
            log.warning("Ctrl-C: the run saves at the end of this optimizer step and stops; again: it stops at once.")
        self._signal = max(self._signal, number)

    def _leave(self, number: int, frame: Any) -> None:
        """A signal after training, when there is nothing left to save.

        An exception raised here would be lost where Python calls back from C, in a hook of ``fork`` for example.
        """
        if number == self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = max(self._signal, number)

    def _leave_if_asked(self, trainer: pl.Trainer) -> None:
        if self._signal and trainer.state.fn != TrainerFn.FITTING:
            _say_saved(self._signal)
            raise Interrupted

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue on another number of devices than the checkpoint was written by.

        What a killed run logged after the checkpoint is logged again; of a finished run, only the last validation is.
        """
        own, origin = Path(os.path.realpath(self.folder)), Path(str(trainer.ckpt_path)).parent
        adopt_best(checkpoint, own, origin, first=trainer.is_global_zero)
        rescale_progress(checkpoint, trainer.world_size)
        _drop_rows(trainer, checkpoint["global_step"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Replace the signal handlers of Lightning, which communicate with other ranks in the middle of a step.

        A resumed run has nothing to save yet.
        """
        self._agreement = Agreement(trainer)
        self._saved = self._stop = False
        self._step, self._signal, self._saved_at = trainer.global_step, 0, time.monotonic()
        # Lightning's own agreement would stop the GPU at every batch
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        count_steps_right(trainer)
        _handle(_SIGNALS, self._note)
        _drop_rows(trainer, self._step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of an optimizer step, save if any rank has to. A validation that is due comes first."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        late = self.every_n_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        number, by_time = self._agreement.largest(self._signal, trainer.is_global_zero and late)
        by_step = self.every_n_train_steps is not None and self._step % self.every_n_train_steps == 0
        ended = self._step >= _length(module)
        if not (number or by_time or by_step or ended):
            return
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher):
            self._waiting = number
        else:
            self._save(trainer, number)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """After a save, when its step is logged: write the metrics to disk, and stop if a signal asked for it."""
        if self._saved:
            self._saved = False
            for logger in trainer.loggers:
                logger.save()
            if self._stop:
                raise Interrupted

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop before the final validation if a signal came during the last step or validation."""
        self._saved = self._stop = False
        (number,) = self._agreement.largest(self._signal)
        if number and self.ended:
            trainer.strategy.checkpoint_io.teardown()
            _say_saved(int(number))
            raise Interrupted

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After training: take the signals from Lightning, whose exit code is 0, and label rows right."""
        if trainer.state.fn != TrainerFn.FITTING:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            _handle(_SIGNALS, self._leave)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The same for the test cells."""
        self.on_validation_start(trainer, module)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop after a batch of the last validation if a signal came."""
        self._leave_if_asked(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The same for the test cells."""
        self._leave_if_asked(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Say how to go on after a second Ctrl-C, or one outside of training."""
        if isinstance(exception, KeyboardInterrupt):
            saved = self._by_age()
            log.warning(
                "Ctrl-C: stopped at once. %s",
                f"The run goes on from {saved[-1]} with ckpt_path=last." if saved else "Nothing is saved yet.",
            )

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save, if the save had to wait for this validation."""
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._save(trainer, number)

    def _save(self, trainer: pl.Trainer, number: float) -> None:
        self.ended = trainer.global_step >= _length(trainer.lightning_module)
        path = self.folder / ("last.ckpt" if self.ended else f"step-{trainer.global_step}.ckpt")
        self._write(trainer, path)
        self._saved_at, self._saved = time.monotonic(), True
        if trainer.is_global_zero:
            self._prune()
        if number and not self.ended:
            trainer.strategy.checkpoint_io.teardown()  # wait for a save that goes on in the background
            name = signal.Signals(int(number)).name
            log.warning("%s: saved %s and stopped. Resume with ckpt_path=last.", name, path)
            if number == signal.SIGUSR1 and trainer.is_global_zero:
                _requeue()
            self._stop = True

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        try:
            trainer.save_checkpoint(path)
            self._written = [*(other for other in self._written if other != path), path]
        except Exception as error:
            if (full := disk_full(error)) is None:
                raise
            whole = self._by_age()
            go_on = f"the run goes on from {whole[-1]} with ckpt_path=last" if whole else "no checkpoint is saved yet"
            raise OSError(full.errno, f"{why_full(full)}, {path} is not written; free some space, {go_on}") from error

    def _by_age(self) -> list[Path]:
        """The checkpoints, oldest first; they have their names only when they are whole.

        Those of this run come last, in the order in which it wrote them, whatever the clock says.
        """
        own = {path: number for number, path in enumerate(self._written, 1)}
        return sorted(self.folder.glob("step-*.ckpt"), key=lambda path: (own.get(path, 0), path.stat().st_mtime_ns))

    def _prune(self) -> None:
        """Remove all but the last ones."""
        for path in self._by_age()[: -self.keep_last]:
            remove(path)


def adopt_best(checkpoint: dict[str, Any], folder: Path, origin: Path, *, first: bool) -> None:
    """Have a run that resumes in another folder keep its best checkpoint there, not in the folder it came from.

    A copied run would otherwise go on in the files of the original; a path of a stranger's checkpoint is never used.

    Args:
        checkpoint: that is resumed; the states of its callbacks are changed.
        folder: of the checkpoints of this run.
        origin: where the checkpoint lies; the best one is copied from there.
        first: whether this is the first rank, which copies.
    """
    for state in (checkpoint.get("callbacks") or {}).values():
        if not (isinstance(state, dict) and state.get("best_model_path")) or state.get("dirpath") == str(folder):
            continue
        name = Path(state["best_model_path"]).name
        source, own = origin / name, folder / name
        is_own = os.path.realpath(origin) == str(folder)
        if not source.is_file():
            log.warning("The best checkpoint so far, %s, is not beside the one that is resumed: it is forgotten.", name)
        elif not is_own and first:
            with atomic_write(own) as part:
                shutil.copyfile(source, part)
        best = str(own) if source.is_file() else ""
        score = state.get("best_model_score")
        state |= {"dirpath": str(folder), "best_model_path": best, "kth_best_model_path": best, "last_model_path": ""}
        state["best_k_models"] = {best: score} if best else {}
        state["best_model_score"] = score if best else None


def leave_terminal() -> None:
    """Write to nowhere what went to a terminal that has closed: a bar that cannot be drawn would end the run."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            write_nowhere(descriptor)


def _drop_rows(trainer: pl.Trainer, step: int) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, MetricsTable):
            logger.drop_rows_from(step)


def count_steps_right(trainer: pl.Trainer) -> None:
    """Label rows by the optimizer step, also after a resume: Lightning's own count is then one short in some places."""
    loop = trainer.fit_loop.epoch_loop
    advance = loop.advance

    def counted(fetcher: Any) -> None:
        loop._batches_that_stepped = trainer.global_step
        advance(fetcher)

    loop.advance = counted  # type: ignore[method-assign, assignment]


def _handle(numbers: Sequence[signal.Signals], handler: Callable[[int, Any], None]) -> None:
    """Have a function called at these signals; Python allows it in the main thread alone.

    A run under ``nohup`` goes on when its terminal closes.
    """
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def _say_saved(number: int) -> None:
    name = signal.Signals(number).name
    log.warning("%s: stopped. All steps are done and saved; ckpt_path=last computes the final metrics.", name)


def _length(module: Any) -> int:
    """Optimizer steps of the run."""
    return int(module.n_steps)


def _requeue() -> None:
    """Have Slurm start this job again, where there is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    log.warning("Asking Slurm to start job %s again.", job)  # said first: Slurm may end this process before it returns
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log.error("scontrol requeue %s failed: %s", job, done.stderr.strip())
