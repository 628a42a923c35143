"""``scfm-train``: pretrain a backbone on a token store."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from scfm.checkpoint import describe
from scfm.closing import closing_block, command_line
from scfm.config import build, plain, target
from scfm.data.module import CellData
from scfm.io import write_text
from scfm.model.backbone import Backbone
from scfm.model.denoiser import Denoiser
from scfm.model.readout import reads_counts
from scfm.model.start.random import Random
from scfm.objective.cluster_table import fit_clusters
from scfm.objective.mlm_denoise import MLMDenoise, require_denoiser
from scfm.objective.neighbor_table import REFERENCE
from scfm.task import Task
from scfm.training.demo_store import STORES
from scfm.training.depth import depth_r2
from scfm.training.fit import (
    FitOptions,
    fit,
    make_spec,
    open_store,
    require_positions,
)
from scfm.training.initial_weights import (
    adopt_model,
    compare_losses,
    initialize_backbone,
    loss_of_start,
    read_origin,
    require_vocab,
    watch_losses,
)
from scfm.training.pictures import draw_curves
from scfm.training.start import open_run
from scfm.training.tracking import close, gene_predictions, send_files, show_samples
from scfm.training.trainer import building, make_trainer

log = logging.getLogger(__name__)

#: File in the folder of a run: metrics before its first step, which a resumed run does not measure again.
START = "start.json"

#: Clusters of the table that a model is compared with, and the training cells that they are fitted on, at most.
CLUSTERS, CELLS = 50, 5000


def run(cfg: DictConfig) -> float | None:
    """Pretrain; the value of ``cfg.metric`` at the end, for a sweep."""
    origin = read_origin(cfg)
    cfg = cfg if origin is None else adopt_model(cfg, origin)
    output = Path(cfg.output)
    with open_run(output, seed=cfg.seed, resumes=cfg.ckpt_path is not None, overwrite=cfg.overwrite):
        store = open_store(cfg.store, cfg.source, cfg.tokenizer, output.parent / STORES)
        if origin is not None:
            require_vocab(origin, store, extend=cfg.vocab == "extend")
        data = build(cfg.data, store)
        causal = target(cfg.objective).causal
        trainer = make_trainer(
            data,
            trainer=cfg.trainer,
            strategy=cfg.strategy,
            files=cfg.files,
            callbacks=cfg.callbacks,
            logger=cfg.logger,
            validate_every=cfg.validate_every,
        )
        with building(trainer):
            backbone = build(cfg.model, store.vocab, causal=causal)
            if origin is not None:
                initialize_backbone(backbone, origin, data)
            require_positions(data, backbone)
            length = backbone.layer_length
            spec = replace(make_spec(data, backbone.width, length), **sample_cells(data, length))
            objective = build(cfg.objective, spec)
        data = (data.with_counts() if reads_counts(backbone) else data).planned(objective.requirements())
        record = plain(cfg)
        about = describe("train", record, store.tokenizer, spec, causal=causal)
        start = build(cfg.start) if origin is None else Random()  # the weights that are there stay
        require_denoised(backbone, objective, begins_random=origin is None and isinstance(start, Random))
        watched = [] if origin is None else watch_losses(cfg, origin, trainer, backbone, objective, data)
        before: dict[str, float] = {}

        def begin() -> None:
            """On the first rank of a run that is not resumed."""
            start.initialize(backbone, data, spec)
            if origin is None:
                before.update(loss_of_start(trainer, backbone, objective, data))
                write_text(output / START, json.dumps(before))

        options = FitOptions(output, cfg.optim, cfg.schedule, cfg.validate_every, cfg.ckpt_path, record)
        module, data, metrics = fit(options, trainer, data, backbone, objective, spec, about, begin)
        if trainer.is_global_zero:
            if not before and cfg.ckpt_path is not None and (output / START).is_file():
                before = _measured_before(output / START)
            metrics = before | metrics
            if watched:
                metrics |= compare_losses(watched, trainer, module)
            if not hasattr(trainer.strategy, "shard"):
                metrics |= measure_depth(module.backbone, data, trainer.strategy.root_device)
            write_text(output / "metrics.json", json.dumps(metrics, indent=1))
            draw_curves(output)
            show_samples(trainer, gene_predictions(module, data))
            send_files(trainer, output)
            close(trainer)
            log.info("%s", closing(output, metrics))
        return metrics.get(cfg.metric)


def _measured_before(path: Path) -> dict[str, float]:
    """What :data:`START` holds; a damaged file costs these figures, not the trained run."""
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError, OSError) as error:
        log.warning("%s cannot be read (%s): metrics.json is without what it held.", path, error)
        return {}


def measure_depth(backbone: Backbone, data: CellData, device: torch.device) -> dict[str, float]:
    """``val/depth_r2``, see :func:`scfm.training.depth.depth_r2`; empty where there are too few cells."""
    found = depth_r2(backbone, data, device)
    if found is None:
        return {}
    log.info("Number of genes of held-out cells, by a linear fit to their embedding: R2 %.2f (0: not at all).", found)
    return {"val/depth_r2": found}


def require_denoised(backbone: Backbone, objective: Task, *, begins_random: bool) -> None:
    """Refuse a denoised embedding without the start and the objective that make it, and the objective without it.

    Raises:
        ValueError: naming what is missing.
    """
    if isinstance(objective, MLMDenoise):
        require_denoiser(backbone)
    elif isinstance(backbone.readout, Denoiser):
        raise ValueError("model.embedding_pool=denoised is trained by objective=mlm_denoise; choose both or none")
    if isinstance(backbone.readout, Denoiser) and begins_random:
        raise ValueError("model.embedding_pool=denoised needs the gene axes of start=spectral")


def closing(output: Path, metrics: dict[str, float]) -> str:
    """The last lines on the screen."""
    checkpoint = output / "checkpoints" / "last.ckpt"
    files = [checkpoint, *(path for name in ("curves.png", "metrics.json") if (path := output / name).is_file())]
    return closing_block(
        [verdict(metrics)], files, command_line("embed", init_from=checkpoint, input="...", output="...")
    )


def sample_cells(data: CellData, length: int | None) -> dict[str, Any]:
    """What the tables of clusters and of neighbors, which the verdict compares with, know of the training cells."""
    cells = data.token_presence(CELLS, length)
    step = max(1, cells.shape[0] // REFERENCE)  # evenly: cells lie file by file
    return {
        "cluster_counts": fit_clusters(cells, min(CLUSTERS, cells.shape[0]), seed=0),
        "reference_cells": cells[::step],
    }


def verdict(metrics: dict[str, float]) -> str:
    """One sentence on whether the model has learned more than tables of gene frequencies and of training cells know."""
    loss, unigram = metrics.get("val/loss"), metrics.get("val/unigram_loss")
    if loss is None or unigram is None:
        return "No validation cells: nothing says whether this model has learned anything (data.val=0.1)."
    titles = {"clusters": f"{CLUSTERS} clusters of cells", "neighbors": "the nearest training cells"}
    tables = {titles[name]: metrics[key] for name in titles if (key := f"val/{name}_loss") in metrics}
    others = [f"that of {title} has {unigram - value:+.2f} ({value:.3f})" for title, value in tables.items()]
    numbers = (
        f"validation loss {loss:.3f}, {unigram - loss:+.2f} nats over the unigram table ({unigram:.3f})"
        + "".join(f"; {each}" for each in others)
        + f"; right gene first {metrics['val/top1']:.1%}, the most frequent gene {metrics['val/unigram_top1']:.1%}"
    )
    better = [title for title, value in tables.items() if value <= loss]
    if loss >= unigram:
        return f"NO BETTER THAN GENE FREQUENCIES: {numbers}. Train longer (trainer.max_steps) or on more cells."
    if better:
        return f"The model knows more than gene frequencies, BUT LESS THAN {' AND '.join(better).upper()}: {numbers}."
    return f"The model knows more than tables of genes and of training cells: {numbers}."
