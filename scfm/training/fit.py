"""What pretraining and fine-tuning share: the store, the trainer, the fit, and the files that it writes."""

import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from torch import nn

from scfm import __version__
from scfm.callback.last_validation import LastValidation
from scfm.config import build
from scfm.data.module import CellData
from scfm.io import hold, remove_parts, write_text
from scfm.model.backbone import Backbone
from scfm.module import CellModule
from scfm.store.token_store import TokenStore
from scfm.strategy.ddp import DDP
from scfm.strategy.deepspeed import DeepSpeed
from scfm.task import Task
from scfm.training.consolidate import consolidate
from scfm.training.demo_store import prepared_source
from scfm.training.devices import cluster, is_first_process, require_devices
from scfm.training.quiet import quiet_lightning
from scfm.training.resume import require_same_run, resume_path
from scfm.training.start import Start
from scfm.training.token_budget import choose_budget, fits_memory
from scfm.training.tracking import close
from scfm.types import Spec

log = logging.getLogger(__name__)

#: Lock file in the folder of a run.
LOCK = ".lock"


def open_store(cfg: DictConfig) -> TokenStore:
    """The store that the config names, the mix it describes, or the one made of the demo or synthetic cells."""
    if OmegaConf.is_config(cfg.store):
        return build(cfg.store)
    return TokenStore.open(cfg.store if cfg.store is not None else prepared_source(cfg))


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Path]:
    """Seed the run and claim its folder, which is refused where it would mix two runs.

    The first process holds a lock in the folder until the run ends.

    Raises:
        BlockingIOError: another run is writing it.
        FileExistsError: it holds checkpoints, and the config says neither to resume nor to overwrite them.
    """
    output = Path(cfg.output)
    with hold(output / LOCK, output) if is_first_process() else nullcontext():
        _prepare_output(cfg, output)
        pl.seed_everything(cfg.seed, verbose=False)
        yield output


def _prepare_output(cfg: DictConfig, output: Path) -> None:
    checkpoints = output / "checkpoints"
    if cfg.ckpt_path is None and checkpoints.is_dir() and any(checkpoints.iterdir()):
        if not cfg.overwrite:  # on every rank: one that went on alone would wait for the others
            raise FileExistsError(
                f"{output} already holds the checkpoints of a run; continue it with ckpt_path=last, "
                "choose another name=..., or start again with overwrite=true"
            )
        if is_first_process():
            shutil.rmtree(checkpoints)
            (output / "metrics.csv").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        remove_parts(output)
        remove_parts(checkpoints)


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


def make_spec(data: CellData, width: int) -> Spec:
    """Vocabulary, width, classes and counts of this run, which a config cannot hold."""
    return Spec(
        vocab=data.store.vocab,
        width=width,
        classes=data.classes(),
        n_cells=len(data.split.train),
        token_counts=data.token_counts(),
        class_counts=data.class_counts(),
        scale=gene_scale(data.store),
        file_cells=data.file_cells(),
    )


def gene_scale(store: TokenStore) -> np.ndarray:
    """(V,) what the tokenizer divides a gene's counts by before it ranks them: its median, or 1."""
    medians = store.tokenizer.get("medians")
    return np.ones(len(store.vocab)) if medians is None else np.asarray(medians, dtype=np.float64)


def make_trainer(cfg: DictConfig, data: CellData) -> pl.Trainer:
    """The Trainer of the config, with accumulation and validation counted in optimizer steps.

    Raises:
        ValueError: devices, precision or a way of saving that are not there.
    """
    quiet_lightning()
    require_devices(cfg.trainer)
    trainer: pl.Trainer = build(
        cfg.trainer,
        strategy=build(cfg.strategy) if cfg.strategy is not None else "auto",
        plugins=[build(cfg.files), *cluster()],
        callbacks=[LastValidation(), *(build(node) for node in cfg.callbacks.values() if node is not None)],
        logger=[build(node) for node in cfg.logger.values() if node is not None],
    )
    if cfg.files.asynchronous and isinstance(trainer.strategy, DeepSpeed):
        raise ValueError("files.asynchronous=true works with single, ddp and fsdp2; DeepSpeed has training wait")
    plugin: Any = trainer.precision_plugin
    plugin.convert_input = lambda batch: batch  # token ids have no half precision
    count_in_steps(cfg, trainer, data)
    return trainer


def count_in_steps(cfg: DictConfig, trainer: pl.Trainer, data: CellData) -> None:
    """Have the trainer accumulate the micro-batches of an optimizer step, and validate by optimizer steps."""
    trainer.accumulate_grad_batches = data.micro_batches(trainer.world_size) // trainer.world_size
    trainer.val_check_interval = min(cfg.validate_every, total_steps(trainer, data)) * trainer.accumulate_grad_batches


def _fit_budget(cfg: DictConfig, trainer: pl.Trainer, data: CellData, backbone: nn.Module, task: nn.Module) -> CellData:
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
    budget = choose_budget(data, Path(cfg.output), trainer.world_size, fits, first=trainer.is_global_zero)
    data = data.budgeted(budget)
    count_in_steps(cfg, trainer, data)
    return data


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


class Fitted(NamedTuple):
    """A trained module, the data in the micro-batches that fitted the device, and the held-out metrics."""

    module: CellModule
    data: CellData
    metrics: dict[str, float]


def fit(
    cfg: DictConfig,
    trainer: pl.Trainer,
    data: CellData,
    backbone: nn.Module,
    task: Task,
    spec: Spec,
    about: Mapping[str, Any],
    begin: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train a task on a backbone with the optimizer and schedule of the config; save, validate and test it.

    Args:
        cfg: of the run.
        trainer: of :func:`make_trainer`.
        data: the cells.
        backbone: to train.
        task: an objective or a head.
        spec: of :func:`make_spec`.
        about: what its checkpoints say of themselves, see :func:`scfm.checkpoint.describe`.
        begin: called by the first rank, before the model is divided, unless the run is resumed.
    """
    data = _fit_budget(cfg, trainer, data, backbone, task)
    module = CellModule(
        backbone,
        task,
        spec,
        about,
        optimizer=lambda groups: build(cfg.optim, groups),
        schedule=lambda optimizer, n_steps: build(cfg.schedule, optimizer, n_steps),
        n_steps=total_steps(trainer, data),
    )
    return Fitted(module, data, _fit_module(cfg, trainer, module, data, begin))


def _fit_module(
    cfg: DictConfig, trainer: pl.Trainer, module: CellModule, data: CellData, begin: Callable[[], None]
) -> dict[str, float]:
    """Train, save, validate, and return the metrics of the trained model; also written to ``metrics.json``."""
    output = Path(cfg.output)
    begin_from = resume_path(cfg)
    if begin_from is not None:
        require_same_run(Path(begin_from), cfg, data.store.vocab.hash, trainer.strategy)
    elif trainer.is_global_zero:  # every strategy hands the weights of the first rank to the others
        begin()
    module.show_samples = any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
    start = Start(cfg, describe_environment(data))
    trainer.callbacks.append(start)  # type: ignore[attr-defined]
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
