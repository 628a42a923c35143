"""Pretraining that begins at the weights of another run: on other cells, with more genes or more positions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from scipy.sparse import csr_matrix
from torch import nn

from scfm.checkpoint import Checkpoint
from scfm.config import build, compose_part, plain, target
from scfm.data.module import CellData
from scfm.inference.load import checkpoint_vocab, restore_backbone
from scfm.model.adapt import reset_adaptation
from scfm.model.backbone import Backbone
from scfm.model.growth import copy_weights, place_genes
from scfm.module import CellModule
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint
from scfm.store.layout import read_meta
from scfm.store.token_store import TokenStore
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: Keys of the model that do not change what its weights mean.
FREE = (
    "max_length",
    "dropout",
    "attention_dropout",
    "embedding_layer",
    "embedding_pool",
    "compile",
    "compile_mode",
    "row",
    "checkpointing",
)
#: A new gene begins at the mean of so many genes that come in the same cells; it has to be in so many cells itself.
N_NEIGHBORS, MIN_CELLS = 10, 3
#: Training cells that are looked at for this.
MAX_CELLS = 20_000


def read_origin(cfg: DictConfig) -> Checkpoint | None:
    """The checkpoint that the run begins at, or None.

    Raises:
        FileNotFoundError, ValueError: it cannot be read; it was trained for an objective of the other causality; or
            ``vocab`` or ``old_store`` come without ``init_from``.
    """
    if cfg.vocab not in ("same", "extend"):
        raise ValueError(f"vocab={cfg.vocab}; expected same or extend")
    if cfg.init_from is None:
        if cfg.vocab == "extend" or cfg.old_store is not None:
            raise ValueError("vocab=extend and old_store=... belong to weights to begin at: give init_from=CHECKPOINT")
        return None
    given = Dictionaries.from_config(cfg.tokenizer)
    checkpoint = read_checkpoint(cfg.init_from, given, tokenizer=_store_tokenizer(cfg.store))
    if target(cfg.objective).causal not in (None, checkpoint.causal):
        kinds = {True: "objective=ar", False: "objective=mlm"}
        raise ValueError(
            f"{checkpoint.path} was trained with {kinds[checkpoint.causal]} and cannot go on with "
            f"{kinds[not checkpoint.causal]}; leave objective=... as it was"
        )
    return checkpoint


def _store_tokenizer(store: Any) -> dict[str, Any] | None:
    """The tokenizer of the run's store, for a published model whose dictionaries do not lie beside it."""
    return read_meta(Path(store))["tokenizer"] if isinstance(store, str) else None


def adopt_model(cfg: DictConfig, checkpoint: Checkpoint) -> DictConfig:
    """The config with the model of the checkpoint and what the command line may change of it.

    Raises:
        ValueError: the command line asks for a model of another shape.
    """
    before, now = dict(checkpoint.config["model"]), plain(cfg)["model"]
    default = compose_part("model", "tiny", {})
    given = {key: value for key, value in now.items() if key not in default or value != default[key]}
    changed = [key for key in given if key not in (*FREE, "positions") and given[key] != before.get(key)]
    if changed:
        said = ", ".join(f"model.{key}={given[key]} (there {before.get(key)})" for key in changed)
        raise ValueError(
            f"init_from={checkpoint.path} brings its own model, and the command asks for another: {said}; leave model "
            "out, or train without init_from"
        )
    model = before | {key: given[key] for key in given if key in (*FREE, "positions")}
    if model.get("positions", 0) < before.get("positions", 0):
        raise ValueError(
            f"model.positions={model['positions']} is fewer than the {before['positions']} of {checkpoint.path}; to "
            f"read shorter cells give model.max_length={model['positions']} or data.max_length={model['positions']}"
        )
    merged = cast("DictConfig", OmegaConf.merge(cfg, {}))
    merged.model = OmegaConf.create(model)
    return merged


def require_vocab(checkpoint: Checkpoint, store: TokenStore, *, extend: bool) -> None:
    """Refuse a store whose ids mean other genes than the checkpoint's.

    Args:
        checkpoint: where the weights are from.
        store: the cells to train on.
        extend: the store may have further genes after those of the checkpoint.

    Raises:
        ValueError: naming what differs.
    """
    old, new = checkpoint_vocab(checkpoint), store.vocab
    if not extend:
        try:
            old.require_same(new, f"the checkpoint {checkpoint.path}", f"the store {store.path}")
        except ValueError as error:
            more = " vocab=extend" if _is_grown(old, new) else ""
            hint = f". Its ids go on where those of the checkpoint end: give{more}" if more else ""
            raise ValueError(f"{error}{hint}") from None
    elif not _is_grown(old, new):
        raise ValueError(
            f"vocab=extend: the vocabulary of {store.path} does not begin with the {len(old)} tokens of "
            f"{checkpoint.path}, so its ids mean other genes; prepare the cells with scfm-prepare "
            f"init_from={checkpoint.path} vocab=extend"
        )


def _is_grown(old: Vocab, new: Vocab) -> bool:
    same = dict(old.specials) == dict(new.specials) and set(old.words) == set(new.words)
    return same and new.tokens[: len(old)] == old.tokens


def initialize_backbone(backbone: Backbone, checkpoint: Checkpoint, data: CellData) -> None:
    """Give the backbone of the run the weights of the checkpoint; what is new in it is said in the log.

    Args:
        backbone: of the model of :func:`adopt_model` and the vocabulary of the cells; changed in place.
        checkpoint: where the weights are from; low-rank additions of a fine-tune are merged.
        data: the cells, whose vocabulary may be larger.
    """
    old, vocab = reset_adaptation(restore_backbone(checkpoint)), data.store.vocab
    copy_weights(backbone, old.state_dict())
    log.info("The run begins at step 0 with the weights of %s (step %d).", checkpoint.path, checkpoint.step)
    _say_positions(old, backbone, data.longest)
    first = len(checkpoint_vocab(checkpoint))
    if len(vocab) > first:
        neighbors = coexpressed(data, first)
        place_genes(backbone, neighbors)
        log.info(
            "%d new genes: %d begin at the mean of the %d genes that come most in the same cells, %d at random because "
            "fewer than %d cells have them. Ids and weights of the %d old tokens are as they were.",
            len(vocab) - first, len(neighbors), N_NEIGHBORS, len(vocab) - first - len(neighbors), MIN_CELLS, first,
        )  # fmt: skip


def _say_positions(old: Backbone, new: Backbone, longest: int) -> None:
    n_old, n_new = old.config.max_position_embeddings, new.config.max_position_embeddings
    if n_new > n_old:
        log.info("Positions %d to %d are new and begin at random.", n_old, n_new - 1)
    if min(longest, n_old) > old.n_positions:
        log.info("Positions %d to %d were there and never trained.", old.n_positions, min(longest, n_old) - 1)
    if longest < old.n_positions:
        log.info("No cell reaches positions %d to %d: they stay as they are.", longest, old.n_positions - 1)


def coexpressed(data: CellData, first: int) -> dict[int, np.ndarray]:
    """The old genes that come most in the same training cells as each new gene, by correlation of being a token.

    The correlation of two 0/1 variables is phi = (p_ab - p_a p_b) / sqrt(p_a (1 - p_a) p_b (1 - p_b)); only positive
    ones count.

    Args:
        data: at most :data:`MAX_CELLS` of its training cells are looked at.
        first: the first new id.

    Returns:
        (at most 10,) int64 ids by new id; genes in fewer than 3 of these cells, or with no neighbor, are left out.
    """
    rows = data.split.train
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(data.seed).choice(rows, MAX_CELLS, replace=False))
    tokens, size = data.store.gather(rows, data.max_length), len(data.store.vocab)
    ones = np.ones(len(tokens.values), dtype=np.float32)
    present = csr_matrix((ones, tokens.values.astype(np.int64), tokens.offsets), shape=(len(rows), size)).tocsc()
    genes = data.store.vocab.gene_ids
    old, new = genes[genes < first], genes[genes >= first]
    share = np.asarray(present.mean(axis=0)).ravel()
    spread = np.sqrt(share * np.maximum(1 - share, 0))  # float32 means may exceed 1 by rounding
    found: dict[int, np.ndarray] = {}
    for block in np.array_split(new, max(1, len(new) // 256)):
        both = (present[:, block].T @ present[:, old]).toarray() / len(rows)
        above = both - np.outer(share[block], share[old])
        scale = np.outer(spread[block], spread[old])
        phi = np.divide(above, scale, out=np.zeros_like(above, dtype=np.float64), where=scale > 0)
        for gene, scores in zip(block, phi, strict=True):
            best = np.argsort(-scores, kind="stable")[:N_NEIGHBORS]
            best = best[scores[best] > 0]
            if share[gene] * len(rows) >= MIN_CELLS - 0.5 and len(best):
                found[int(gene)] = old[best]
    return found


@dataclass(frozen=True)
class WatchedCells:
    """Held-out cells whose loss is reported before the first step and after the last.

    Attributes:
        name: of the metric, ``val/loss`` for the cells of the run.
        data: the cells.
        before: their loss at the start.
    """

    name: str
    data: CellData
    before: float


def watch_losses(
    cfg: DictConfig,
    checkpoint: Checkpoint,
    trainer: pl.Trainer,
    backbone: Backbone,
    objective: nn.Module,
    data: CellData,
) -> list[WatchedCells]:
    """The loss of the run's validation cells, and of those of ``old_store``, before the first step.

    Strategies that divide the model are left out: no process holds it whole.

    Raises:
        ValueError: ``old_store`` has another vocabulary than the checkpoint.
    """
    if _divides(trainer):
        return []
    watched = {"val/loss": data}
    if cfg.old_store is not None:
        store = TokenStore.open(cfg.old_store)
        checkpoint_vocab(checkpoint).require_same(
            store.vocab, f"the checkpoint {checkpoint.path}", f"old_store={store.path}"
        )
        watched["old/val/loss"] = build(cfg.data, store)
    found = []
    for name, cells in watched.items():
        if len(cells.split.val):
            found.append(WatchedCells(name, cells, held_out_loss(trainer, backbone, objective, cells)))
            log.info("Before the first step: %s %.4f (%d cells)", name, found[-1].before, len(cells.split.val))
    return found


def loss_of_start(
    trainer: pl.Trainer, backbone: Backbone, objective: nn.Module, data: CellData, most: int = 2000
) -> dict[str, float]:
    """``val/loss_before``: what a new model knows by its start alone, on so many validation cells at most.

    Strategies that divide the model are left out, see :func:`watch_losses`.
    """
    rows = data.split.val[:: -(-len(data.split.val) // most) or 1]
    if _divides(trainer) or not len(rows):
        return {}
    found = held_out_loss(trainer, backbone, objective, data, rows)
    log.info("Before the first step: val/loss %.4f (%d cells)", found, len(rows))
    return {"val/loss_before": found}


def _divides(trainer: pl.Trainer) -> bool:
    if hasattr(trainer.strategy, "shard"):
        log.info("The loss before the first step is not measured: the strategy divides the model over devices.")
        return True
    return False


def compare_losses(watched: list[WatchedCells], trainer: pl.Trainer, module: CellModule) -> Mapping[str, float]:
    """``NAME_before`` and ``NAME_after`` of what was watched; the log says what was learned and what forgotten."""
    found: dict[str, float] = {}
    for one in watched:
        after = held_out_loss(trainer, module.backbone, module.task, one.data)
        found |= {f"{one.name}_before": one.before, f"{one.name}_after": after}
        log.info("%s: %.4f before, %.4f after (%+.4f)", one.name, one.before, after, after - one.before)
    return found


@torch.no_grad()
def held_out_loss(
    trainer: pl.Trainer, backbone: nn.Module, objective: nn.Module, data: CellData, rows: np.ndarray | None = None
) -> float:
    """The mean loss of the validation cells (or of ``rows``), with the masks and the precision of every validation."""
    device, precision = trainer.strategy.root_device, cast("Any", trainer.precision_plugin)
    modes = [(part, part.training) for part in (backbone, objective)]
    total, weight = 0.0, 0
    for part in (backbone, objective):
        part.eval().to(device)
    for batch in data.loader(data.split.val if rows is None else rows, alone=True):
        with precision.val_step_context():
            metrics = objective(backbone, batch.to(device))
        n = max(int(metrics.get("n_targets", batch.n_cells)), 1)
        total, weight = total + float(metrics["loss"]) * n, weight + n
    for part, training in modes:
        part.train(training)
    return total / max(weight, 1)
