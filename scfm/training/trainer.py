"""The Trainer of a run: devices, callbacks and loggers of the config, and what it counts in optimizer steps."""

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from scfm.callback.last_validation import LastValidation
from scfm.config import build
from scfm.data.module import CellData
from scfm.strategy.deepspeed import DeepSpeed
from scfm.training.devices import cluster, require_devices


def make_trainer(
    data: CellData,
    *,
    trainer: DictConfig,
    strategy: DictConfig | None,
    files: DictConfig,
    callbacks: DictConfig,
    logger: DictConfig,
    validate_every: int,
) -> pl.Trainer:
    """A Trainer made of nodes of the config, with accumulation and validation counted in optimizer steps.

    Args:
        data: the cells.
        trainer: Lightning's own arguments.
        strategy: how the run is divided over devices; None: Lightning's choice.
        files: how checkpoints are written.
        callbacks: nodes by name, null for one that is left out.
        logger: the same for loggers.
        validate_every: optimizer steps.

    Raises:
        ValueError: devices, precision or a way of saving that are not there.
    """
    quiet_lightning()
    require_devices(trainer)
    made: pl.Trainer = build(
        trainer,
        strategy=build(strategy) if strategy is not None else "auto",
        plugins=[build(files), *cluster()],
        callbacks=[LastValidation(), *(build(node) for node in callbacks.values() if node is not None)],
        logger=[build(node) for node in logger.values() if node is not None],
    )
    if files.asynchronous and isinstance(made.strategy, DeepSpeed):
        raise ValueError("files.asynchronous=true works with single, ddp and fsdp2; DeepSpeed has training wait")
    plugin: Any = made.precision_plugin
    plugin.convert_input = lambda batch: batch  # token ids have no half precision
    count_in_steps(made, data, validate_every)
    return made


def count_in_steps(trainer: pl.Trainer, data: CellData, validate_every: int) -> None:
    """Have the trainer accumulate the micro-batches of an optimizer step, and validate by optimizer steps."""
    trainer.accumulate_grad_batches = data.micro_batches(trainer.world_size) // trainer.world_size
    trainer.val_check_interval = min(validate_every, total_steps(trainer, data)) * trainer.accumulate_grad_batches


def building(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """The context to build the model in: with a sharding strategy only the first rank holds it whole."""
    where = getattr(trainer.strategy, "building", nullcontext)
    return where()


def total_steps(trainer: pl.Trainer, data: CellData) -> int:
    """Optimizer steps of the whole run (Lightning's own estimate would reset the loader's position).

    Raises:
        ValueError: the run has no end.
    """
    multiple = data.micro_batches(trainer.world_size)
    per_epoch = len(data.order(data.split.train, multiple=multiple, shuffle=True)) // multiple
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(trainer.max_epochs * per_epoch)
    if not ends:
        raise ValueError("the run has no end: give trainer.max_steps=... or trainer.max_epochs=...")
    return min(ends)


def quiet_lightning() -> None:
    """Hide advertisements, and advice against what is done on purpose."""
    for chatty in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{chatty}").setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*checkpoint directory .* exists and is not empty.*",
        ".*infer the batch indices.*",
        ".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)
