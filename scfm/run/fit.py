"""What pretraining and fine-tuning share: the store, the trainer, the fit, and what it leaves behind."""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger

from scfm.config import build, plain
from scfm.data.module import CellData
from scfm.data.store import TokenStore
from scfm.model.backbone import Backbone
from scfm.module import CellModule
from scfm.run.source import prepared_source
from scfm.types import Spec

log = logging.getLogger(__name__)


def open_store(cfg: DictConfig) -> TokenStore:
    """The store that the config names, or the one made of the demo or synthetic cells."""
    return TokenStore.open(cfg.store if cfg.store is not None else prepared_source(cfg))


def claim_output(cfg: DictConfig) -> Path:
    """The folder of the run, refused where it would mix two runs.

    Raises:
        FileExistsError: it holds checkpoints, and the config says neither to resume nor to overwrite them.
    """
    output = Path(cfg.output)
    checkpoints = output / "checkpoints"
    first_rank = os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
    if first_rank and cfg.ckpt_path is None and checkpoints.is_dir() and any(checkpoints.iterdir()):
        if not cfg.overwrite:
            raise FileExistsError(
                f"{output} already holds the checkpoints of a run; continue it with ckpt_path=last, "
                "choose another name=..., or begin anew with overwrite=true"
            )
        shutil.rmtree(checkpoints)
        (output / "metrics.csv").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    return output


def resume_path(cfg: DictConfig) -> str | None:
    """The checkpoint to resume from: ``ckpt_path=last`` is the last one of the output folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if cfg.ckpt_path is None:
        return None
    path = Path(cfg.output) / "checkpoints" / "last.ckpt" if cfg.ckpt_path == "last" else Path(cfg.ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path={cfg.ckpt_path}: there is no checkpoint at {path} to resume from")
    return str(path)


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
    """What only the run knows."""
    return Spec(
        vocab=data.store.vocab,
        width=width,
        classes=data.classes(),
        n_cells=len(data.split.train),
        token_counts=data.token_counts(),
        class_counts=data.class_counts(),
    )


def quiet_lightning() -> None:
    """Leave the screen to what a user should read: no advertisements, no advice on what is so on purpose."""
    for chatty in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{chatty}").setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def make_trainer(cfg: DictConfig, data: CellData) -> pl.Trainer:
    """The Trainer of the config, with accumulation and validation counted in optimizer steps."""
    quiet_lightning()
    trainer: pl.Trainer = build(
        cfg.trainer,
        strategy=build(cfg.strategy) if cfg.strategy is not None else "auto",
        callbacks=[build(node) for node in cfg.callbacks.values() if node is not None],
        logger=[build(node) for node in cfg.logger.values() if node is not None],
    )
    trainer.accumulate_grad_batches = data.micro_batches(trainer.world_size) // trainer.world_size
    trainer.val_check_interval = cfg.validate_every * trainer.accumulate_grad_batches
    return trainer


def total_steps(trainer: pl.Trainer, data: CellData) -> int:
    """Optimizer steps of the whole run (Lightning's own estimate would reset the loader's position).

    Raises:
        ValueError: the run has no end.
    """
    multiple = data.micro_batches(trainer.world_size)
    per_epoch = len(data.order(data.split.train, multiple=multiple, shuffle=False)) // multiple
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(trainer.max_epochs * per_epoch)
    if not ends:
        raise ValueError("the run has no end: give trainer.max_steps=... or trainer.max_epochs=...")
    return min(ends)


def fit(cfg: DictConfig, trainer: pl.Trainer, module: CellModule, data: CellData) -> dict[str, float]:
    """Train, save, validate, and return the metrics of the trained model; also written to ``metrics.json``."""
    output = Path(cfg.output)
    if trainer.is_global_zero:
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger):  # its hparams.yaml would be config.yaml again
            logger.log_hyperparams(plain(cfg))
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_path(cfg), weights_only=True)
        trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
        found = _held_out(trainer, module, data)
    finally:
        for logger in trainer.loggers:
            logger.finalize("success")
    if trainer.is_global_zero:
        (output / "metrics.json").write_text(json.dumps(found, indent=1))
        for name, value in found.items():
            log.info("%-24s %.4f", name, value)
    return found


def _held_out(trainer: pl.Trainer, module: CellModule, data: CellData) -> dict[str, float]:
    """Validation and test metrics, of the best checkpoint where one is monitored."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best and getattr(trainer.checkpoint_callback, "monitor", None):
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
        log.info("Best checkpoint: %s", best)
    found: dict[str, Any] = {}
    if len(data.split.val):
        found |= trainer.validate(module, datamodule=data, verbose=False, weights_only=True)[0]
    if len(data.split.test):
        found |= trainer.test(module, datamodule=data, verbose=False, weights_only=True)[0]
    return found
