"""The record of a run and its learning rates, set once its checkpoint to resume from has been accepted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger

from scfm.config import plain
from scfm.io import write_text
from scfm.strategy.deepspeed import DeepSpeed

log = logging.getLogger(__name__)


class Start(pl.Callback):
    """Writes ``config.yaml`` once a checkpoint to resume from has been accepted, and takes the rates of the config.

    A refused command leaves the record of the run as it was; a resumed run goes on at the rates of the command line.

    Args:
        cfg: of the run.
        about: what the config does not hold, for the loggers.
    """

    def __init__(self, cfg: DictConfig, about: dict[str, Any]) -> None:
        self.cfg, self.about = cfg, about
        #: Whether a step was left to do.
        self.trained = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the record; set the rates where they are others than the checkpoint's."""
        if trainer.is_global_zero:
            write_text(Path(self.cfg.output) / "config.yaml", OmegaConf.to_yaml(self.cfg, resolve=True))
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # its hparams.yaml would be config.yaml again
                logger.log_hyperparams(plain(self.cfg) | {"run": self.about})
        if not isinstance(trainer.strategy, DeepSpeed):  # which holds the groups itself
            _set_rates(trainer, module.rates)  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that there was a step left."""
        self.trained = True


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
