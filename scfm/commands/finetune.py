"""``scfm-finetune``: train a head on a pretrained backbone."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pandas as pd
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scfm.checkpoint import WEIGHTS, Checkpoint, describe
from scfm.closing import closing_block, command_line
from scfm.config import build, plain, target
from scfm.data.module import CellData
from scfm.head.base import Head
from scfm.inference.load import checkpoint_vocab, restore_backbone
from scfm.io import write_text
from scfm.metrics.direction import falls
from scfm.model.adapt import reset_adaptation
from scfm.model.readout import reads_counts
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint
from scfm.report.finetune import report
from scfm.store.token_store import TokenStore
from scfm.training.consolidate import consolidate
from scfm.training.finalize import Finished, finish
from scfm.training.fit import (
    FitOptions,
    fit,
    make_spec,
    open_store,
    require_positions,
)
from scfm.training.pictures import draw_curves
from scfm.training.resume import read_begun
from scfm.training.start import open_run
from scfm.training.survey import prepare_head
from scfm.training.tracking import cell_predictions, close, send_report, show_samples
from scfm.training.trainer import make_trainer

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float | None:
    """Fine-tune; the value of ``cfg.metric`` of the best checkpoint, for a sweep."""
    cfg = _resolve_metric(cfg)
    output = Path(cfg.output)
    with open_run(output, seed=cfg.seed, resumes=cfg.ckpt_path is not None, overwrite=cfg.overwrite):
        return _finetune(cfg, output)


def _finetune(cfg: DictConfig, output: Path) -> float | None:
    kind = head_class(cfg)
    store = open_store(cfg.store)
    checkpoint = read_checkpoint(cfg.init_from, Dictionaries.from_config(cfg.tokenizer), tokenizer=store.tokenizer)
    checkpoint_vocab(checkpoint).require_same(
        store.vocab, f"the checkpoint {checkpoint.path}", f"the store {store.path}"
    )
    _require_causality(cfg, checkpoint)
    cfg = _with_components(cfg, store)
    data = build(cfg.data, store)
    if "calibrate" in kind.hooks:
        data = data.calibrated(cfg.calibration)
    backbone = restore_backbone(checkpoint)
    require_positions(data, backbone)
    spec = make_spec(data, backbone.width)
    head = build(cfg.head, spec)
    data = (data.with_counts() if reads_counts(backbone) else data).planned(head.requirements())
    backbone = build(cfg.adapt, reset_adaptation(backbone))
    _say_what_trains(backbone, head)
    data = prepare_head(head, backbone, data)
    trainer = make_trainer(
        data,
        trainer=cfg.trainer,
        strategy=cfg.strategy,
        files=cfg.files,
        callbacks=cfg.callbacks,
        logger=cfg.logger,
        validate_every=cfg.validate_every,
    )
    record = plain(cfg)
    config = record | {"model": checkpoint.config["model"]}  # the architecture that the checkpoint brought
    about = describe("finetune", config, checkpoint.tokenizer, spec, causal=checkpoint.causal)
    options = FitOptions(output, cfg.optim, cfg.schedule, cfg.validate_every, cfg.ckpt_path, record)
    _, data, metrics = fit(options, trainer, data, backbone, head, spec, about)
    if trainer.is_global_zero:
        write_split(output / "split.csv", data)
        done = finish(_best(trainer, output), data, trainer.strategy.root_device)
        metrics |= done.metrics
        write_metrics(output / "metrics.json", metrics, done)
        draw_curves(output)
        if cfg.report:
            log.info("Comparing with untrained models and simple methods for the report (report=false: without).")
            page = report(output, done, data, checkpoint)
            if page is not None:
                send_report(trainer.loggers, page, metrics)
        show_samples(trainer, cell_predictions(done, data))
        close(trainer)
        log.info("%s", closing(output, done, metrics, cfg.metric))
    return metrics.get(cfg.metric)


def closing(output: Path, done: Finished, metrics: dict[str, float], metric: str) -> str:
    """The last lines on the screen."""
    tested = {name: value for name, value in metrics.items() if name.startswith("test/") and not name.endswith("loss")}
    watched = {metric: metrics[metric]} if metric in metrics else {}
    result = ", ".join(f"{name} {value:.3f}" for name, value in list((tested or watched).items())[:4])
    files = [done.path, *(path for name in ("report.html", "split.csv") if (path := output / name).is_file())]
    following = command_line("embed", init_from=done.path, input="...", output="...")
    return closing_block([result] if result else [], files, following)


def head_class(cfg: DictConfig) -> type[Head]:
    """The class of the head.

    Raises:
        ValueError: it is no :class:`~scfm.head.base.Head`.
    """
    found = target(cfg.head)
    if not (isinstance(found, type) and issubclass(found, Head)):
        raise ValueError(f"head._target_={cfg.head._target_} is no head: derive the class from scfm.head.base.Head")
    return found


def _say_what_trains(backbone: nn.Module, head: nn.Module) -> None:
    for name, part in (("backbone", backbone), ("head", head)):
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
        trained = sum(size for size, learns in sizes if learns)
        log.info("Trains %s of %s parameters of the %s.", f"{trained:,}", f"{sum(s for s, _ in sizes):,}", name)


def write_metrics(path: Path, found: dict[str, float], done: Finished) -> None:
    """Metrics of the head as its checkpoint holds it, and in the log what has changed since training."""
    write_text(path, json.dumps(found, indent=1))
    for name, value in done.metrics.items():
        log.info("%-24s %.4f", name, value)


def _best(trainer: pl.Trainer, output: Path) -> Path:
    """The checkpoint of the best validation, or the last where none was monitored."""
    best = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    path = next((Path(name) for name in best if name), output / "checkpoints" / "last.ckpt")
    if path.is_dir() and not (path / WEIGHTS).is_file():
        consolidate(path, trusted=True)  # this run wrote it
    return path


def _resolve_metric(cfg: DictConfig) -> DictConfig:
    """The config with the metric that the head names, where the user does not name one."""
    metric = f"val/{head_class(cfg).metric}" if cfg.metric == "auto" else cfg.metric
    mode = ("min" if falls(metric) else "max") if cfg.mode == "auto" else cfg.mode
    return cast("DictConfig", OmegaConf.merge(cfg, {"metric": metric, "mode": mode}))


def _with_components(cfg: DictConfig, store: TokenStore) -> DictConfig:
    """The config with the number of variable components, where it says ``auto``.

    A new run has what the store's counts allow; a resumed one has what it began with, which was none before there were
    any.
    """
    if cfg.head.get("variable_components") != "auto":
        return cfg
    begun = read_begun(cfg.ckpt_path, Path(cfg.output))
    if begun is not None and isinstance(begun.get("head"), Mapping):
        n, why = begun["head"].get("variable_components", 0), "as the run began that is resumed"
    else:
        n = head_class(cfg).auto_components if store.has_counts else 0
        why = "the store keeps counts" if store.has_counts else "the store keeps ranks only"
    log.info("head.variable_components=%s: %s.", n, why)
    return cast("DictConfig", OmegaConf.merge(cfg, {"head": {"variable_components": n}}))


def write_split(path: Path, data: CellData) -> None:
    """Which cell was in which part, so that an evaluation can keep to it (``scfm-evaluate split=...``)."""
    parts = {name: getattr(data.split, name) for name in ("train", "val", "calibration", "test")}
    rows = [(cell, part) for part, members in parts.items() for cell in data.store.names(members)]
    write_text(path, pd.DataFrame(rows, columns=["cell", "part"]).to_csv(index=False))


def _require_causality(cfg: DictConfig, checkpoint: Checkpoint) -> None:
    wanted = head_class(cfg).causal
    if wanted is not None and wanted != checkpoint.causal:
        kinds = {True: "a causal (autoregressive) backbone", False: "a bidirectional backbone"}
        raise ValueError(
            f"the head needs {kinds[wanted]} but {checkpoint.path} holds {kinds[checkpoint.causal]}; "
            "choose another head or pretrain with the other objective"
        )
