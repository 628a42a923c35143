"""What pretraining and fine-tuning share: the store, the fit, and the checkpoint and metrics that it leaves."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger
from torch import nn

from scfm.callback.last_validation import LastValidation
from scfm.config import build
from scfm.data.module import CellData
from scfm.io import write_text
from scfm.model.backbone import Backbone
from scfm.module import CellModule
from scfm.store.token_store import TokenStore
from scfm.strategy.ddp import DDP
from scfm.task import Task
from scfm.training.consolidate import consolidate
from scfm.training.demo_store import STORES, prepared_source
from scfm.training.resume import COMPARED, require_same_run, resume_path
from scfm.training.start import Start, describe_environment
from scfm.training.token_budget import choose_budget, fits_memory
from scfm.training.tracking import close
from scfm.training.trainer import count_in_steps, total_steps
from scfm.types import Spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    """How a task is trained: what :func:`fit` reads of the config.

    Attributes:
        output: folder of the run.
        optim: node of the optimizer, built with the parameter groups.
        schedule: node of the learning-rate schedule, built with the optimizer and the number of its steps.
        validate_every: optimizer steps.
        ckpt_path: the checkpoint to resume from, see :func:`~scfm.training.resume.resume_path`.
        record: every key of the run in plain values, for its ``config.yaml`` and the loggers.
    """

    output: Path
    optim: DictConfig
    schedule: DictConfig
    validate_every: int
    ckpt_path: str | None
    record: Mapping[str, Any]


def open_store(
    store: str | DictConfig | None,
    source: DictConfig | None = None,
    tokenizer: DictConfig | None = None,
    folder: Path = Path(STORES),
) -> TokenStore:
    """The store that the config names, the mix it describes, or the one made of the demo or synthetic cells.

    Args:
        store: a folder, the node of a mix, or None.
        source: cells to prepare where there is no store, see :class:`~scfm.training.demo_store.Source`.
        tokenizer: for these cells; None where a store must be given.
        folder: where the store made of them is kept.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: it is no store, or neither a store nor cells are given.
    """
    if isinstance(store, DictConfig):
        return build(store)
    return TokenStore.open(prepared_source(source, tokenizer, folder) if store is None else store)


def require_positions(data: CellData, backbone: Backbone) -> None:
    """Refuse cells longer than the model can read.

    Raises:
        ValueError: naming both lengths.
    """
    if data.longest > backbone.n_positions:
        raise ValueError(
            f"the longest cell has {data.longest} tokens but the model has {backbone.n_positions} positions; "
            f"cut the cells with data.max_length={backbone.n_positions} or choose a model with more positions"
        )


def make_spec(data: CellData, width: int, length: int | None = None) -> Spec:
    """Vocabulary, width, classes and counts of this run, which a config cannot hold.

    Args:
        data: the cells.
        width: of the backbone.
        length: tokens of a cell that its layers read; None: all.
    """
    return Spec(
        vocab=data.store.vocab,
        width=width,
        classes=data.classes(),
        n_cells=len(data.split.train),
        token_counts=data.token_counts(length),
        class_counts=data.class_counts(),
        scale=gene_scale(data.store),
        file_cells=data.file_cells(),
        fields=data.fields(),
    )


def gene_scale(store: TokenStore) -> np.ndarray:
    """(V,) what the tokenizer divides a gene's counts by before it ranks them: its median, or 1."""
    medians = store.tokenizer.get("medians")
    return np.ones(len(store.vocab)) if medians is None else np.asarray(medians, dtype=np.float64)


def _fit_budget(
    options: FitOptions, trainer: pl.Trainer, data: CellData, backbone: nn.Module, task: nn.Module
) -> CellData:
    """The data in the largest micro-batches that fit the device, where ``data.auto_budget`` asks for it.

    Raises:
        ValueError: the strategy divides the model, which one device alone cannot try.
    """
    if not data.auto_budget:
        return data
    if hasattr(trainer.strategy, "shard"):
        raise ValueError("data.auto_budget=true works with strategy=single and ddp; give data.tokens_per_batch here")
    if isinstance(trainer.strategy, DDP):
        trainer.strategy.overlap = False  # so that a step that does not fit after all is not lost
    fits = fits_memory(backbone, task, trainer.strategy.root_device, str(trainer.precision))
    budget = choose_budget(data, options.output, trainer.world_size, fits, first=trainer.is_global_zero)
    data = data.budgeted(budget)
    count_in_steps(trainer, data, options.validate_every)
    return data


class Fitted(NamedTuple):
    """A trained module, the data in the micro-batches that fitted the device, and the held-out metrics."""

    module: CellModule
    data: CellData
    metrics: dict[str, float]


def fit(
    options: FitOptions,
    trainer: pl.Trainer,
    data: CellData,
    backbone: nn.Module,
    task: Task,
    spec: Spec,
    about: Mapping[str, Any],
    begin: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train a task on a backbone; save, validate and test it.

    Args:
        options: see there.
        trainer: of :func:`make_trainer`.
        data: the cells.
        backbone: to train.
        task: an objective or a head.
        spec: of :func:`make_spec`.
        about: what its checkpoints say of themselves, see :func:`scfm.checkpoint.describe`.
        begin: called by the first rank, before the model is divided, unless the run is resumed.
    """
    data = _fit_budget(options, trainer, data, backbone, task)
    module = CellModule(
        backbone,
        task,
        spec,
        about,
        optimizer=lambda groups: build(options.optim, groups),
        schedule=lambda optimizer, n_steps: build(options.schedule, optimizer, n_steps),
        n_steps=total_steps(trainer, data),
    )
    return Fitted(module, data, _fit_module(options, trainer, module, data, begin))


def _fit_module(
    options: FitOptions, trainer: pl.Trainer, module: CellModule, data: CellData, begin: Callable[[], None]
) -> dict[str, float]:
    """Train, save, validate, and return the metrics of the trained model; also written to ``metrics.json``."""
    output, record = options.output, options.record
    begin_from = resume_path(options.ckpt_path, output)
    if begin_from is not None:
        parts = {name: record.get(name) for name in COMPARED}
        require_same_run(Path(begin_from), parts, output, data.store.vocab.hash, trainer.strategy)
    elif trainer.is_global_zero:  # every strategy hands the weights of the first rank to the others
        begin()
    module.show_samples = any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
    start = Start(output, record, describe_environment(data), anew=begin_from is None)
    trainer.callbacks.insert(0, start)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, datamodule=data, ckpt_path=begin_from, weights_only=True)
        if not start.trained:
            log.warning(
                "Nothing was left to train: the run has done all of its %d steps; to go on, raise trainer.max_steps.",
                trainer.global_step,
            )
        save_last(trainer, output / "checkpoints" / "last.ckpt")
        metrics = _evaluate_held_out(trainer, module, data)
    except BaseException:
        close(trainer, exit_code=1)
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("success")
    if trainer.is_global_zero:
        write_text(output / "metrics.json", json.dumps(metrics, indent=1))
        for name, value in metrics.items():
            log.info("%-24s %.4f", name, value)
    return metrics


def save_last(trainer: pl.Trainer, path: Path) -> None:
    """The checkpoint at the end of a run; where a strategy writes shards, with the weights as one file beside them."""
    if not any(getattr(callback, "ended", False) for callback in trainer.checkpoint_callbacks):
        trainer.save_checkpoint(path)  # it was stopped early, or its config has no such callback
    trainer.strategy.checkpoint_io.teardown()  # a save may go on in the background
    trainer.strategy.barrier()
    if path.is_dir() and trainer.is_global_zero:
        consolidate(path, trusted=True)  # this run wrote it
    trainer.strategy.barrier()


def _evaluate_held_out(trainer: pl.Trainer, module: CellModule, data: CellData) -> dict[str, float]:
    """Validation and test metrics, of the best checkpoint where one is monitored.

    The last step of training may have been validated already; that is not done again.
    """
    monitored: list[Any] = [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None)]
    best = (monitored[0].best_model_path or None) if monitored else None
    if best:
        log.info("Best checkpoint: %s", best)
    metrics: dict[str, Any] = {}
    options: dict[str, Any] = {"datamodule": data, "ckpt_path": best, "verbose": False, "weights_only": True}
    last = next(callback for callback in trainer.callbacks if isinstance(callback, LastValidation))  # type: ignore[attr-defined]
    if best is None and last.step == trainer.global_step:
        metrics |= last.metrics
    elif len(data.split.val):
        metrics |= trainer.validate(module, **options)[0]
    if len(data.split.test):
        metrics |= trainer.test(module, **options)[0]
    return metrics
