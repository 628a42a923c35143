"""The start of a run: its folder is claimed; its record and learning rates are set once nothing refuses it."""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger

from scfm import __version__
from scfm.callback.metrics_table import MetricsTable
from scfm.data.module import CellData
from scfm.io import hold, remove, remove_parts, write_text
from scfm.strategy.deepspeed import DeepSpeed
from scfm.training.devices import is_first_process

log = logging.getLogger(__name__)

#: Lock file in the folder of a run.
LOCK = ".lock"


@contextmanager
def open_run(output: Path, *, seed: int, resumes: bool, overwrite: bool) -> Iterator[None]:
    """Seed the run and claim its folder, which is refused where it would mix two runs.

    The first process holds a lock in the folder until the run ends.

    Args:
        output: the folder.
        seed: of all random numbers.
        resumes: the run goes on from a checkpoint, which may lie in the folder.
        overwrite: the checkpoints of another run may be there; :class:`Start` deletes them.

    Raises:
        BlockingIOError: another run is writing it.
        FileExistsError: it holds checkpoints, and the config says neither to resume nor to overwrite them.
    """
    with hold(output / LOCK, output) if is_first_process() else nullcontext():
        _prepare_output(output, resumes=resumes, overwrite=overwrite)
        pl.seed_everything(seed, verbose=False)
        yield


def _prepare_output(output: Path, *, resumes: bool, overwrite: bool) -> None:
    checkpoints = output / "checkpoints"
    there = checkpoints.is_dir() and any(checkpoints.iterdir())
    if there and not (resumes or overwrite):  # on every rank: one that went on alone would wait for the others
        raise FileExistsError(
            f"{output} already holds the checkpoints of a run; continue it with ckpt_path=last, "
            "choose another name=..., or start again with overwrite=true"
        )
    output.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        remove_parts(output)
        remove_parts(checkpoints)


class Start(pl.Callback):
    """Writes ``config.yaml`` once a checkpoint to resume from has been accepted, and takes the rates of the config.

    A refused command leaves the folder of the run as it was; a resumed run goes on at the rates of the command line,
    and one that begins anew deletes the results of an earlier one.

    Args:
        output: folder of the run.
        record: the config of the run, plain values.
        about: what the config does not hold, for the loggers.
        anew: whether the run begins anew.
    """

    def __init__(self, output: Path, record: Mapping[str, Any], about: Mapping[str, Any], *, anew: bool) -> None:
        self.output, self.record, self.about, self.anew = output, record, about, anew
        #: Whether a step was left to do.
        self.trained = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the record; set the rates where they are others than the checkpoint's."""
        if trainer.is_global_zero and self.anew:
            _discard_earlier(trainer, self.output)
        if trainer.is_global_zero:
            write_text(self.output / "config.yaml", OmegaConf.to_yaml(self.record))
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # its hparams.yaml would be config.yaml again
                logger.log_hyperparams(dict(self.record) | {"run": self.about})
        if not isinstance(trainer.strategy, DeepSpeed):  # which holds the groups itself
            _set_rates(trainer, module.rates)  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that there was a step left."""
        self.trained = True


def _discard_earlier(trainer: pl.Trainer, output: Path) -> None:
    """Remove the results of an earlier run from its folder."""
    for path in (output / "checkpoints").glob("*.ckpt"):
        remove(path)
    for name in ("metrics.json", "report.html", "split.csv"):
        remove(output / name)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsTable):
            logger.begin_anew()


def _set_rates(trainer: pl.Trainer, rates: list[float]) -> None:
    """Give every parameter group the rate of the config, at its place in the schedule of the config."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    if len(rates) != len(groups):
        return
    old_rates = [float(group["initial_lr"]) for group in groups]
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for schedule in schedules:
        schedule.base_lrs = list(rates)
        for group, rate, share in zip(groups, rates, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * share(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in groups]
    if old_rates != rates:
        log.info("The run goes on with optim.lr=%g (it was %g).", max(rates), max(old_rates))


def describe_environment(data: CellData) -> dict[str, Any]:
    """Versions of the code and packages, the store and the machine of a run: all that its config does not hold."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False) if shutil.which("git") else None
    return {
        "scfm": __version__,
        "git": done.stdout.strip() if done is not None and done.returncode == 0 else None,
        "store": data.store.fingerprint,
        "vocab": data.store.vocab.hash,
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
    }
