"""Sections that say what the backbone adds to a head: with it, without it, with random weights."""

from __future__ import annotations

import logging
from functools import partial
from typing import cast

import numpy as np
from omegaconf import OmegaConf

from scfm.checkpoint import Checkpoint
from scfm.config import build
from scfm.data.module import CellData
from scfm.evaluation.methods.backbone_gain import RANDOM, WITH, BackboneGain, compare_backbones, compare_orders
from scfm.evaluation.methods.integration_gain import compare_integrations
from scfm.evaluation.methods.method import COMPONENTS, FROZEN, UNTRAINED
from scfm.evaluation.methods.store_probes import MAX_CELLS, StoreFeatures
from scfm.evaluation.origin.backbones import random_backbone
from scfm.head.integration.triplet import Triplet
from scfm.inference.load import restore_backbone
from scfm.inference.predict import embed_step, predict
from scfm.model.backbone import Backbone
from scfm.page import Section, paragraph, table
from scfm.training.finalize import Finished

log = logging.getLogger(__name__)

#: Title of the section with three rows.
ADDS = "What the backbone adds"
NOT_COMPARED = (
    "What the backbone adds is not compared for this head: the comparison fits linear heads that name classes or order "
    "known stages from gene components, or trains integration/triplet, with and without a backbone. This head does "
    "neither, or reads no components."
)
UNRANKED = ["low", "high", "kept_low", "kept_high", "backbone_scale"]


def section(gain: BackboneGain, subject: str) -> Section:
    """The three rows and their sentence, which are also logged."""
    log.info("%s\n%s", gain.sentence, gain.table.round(3).to_string())
    shown = [name for name in UNRANKED if name in gain.table]
    return Section(f"{ADDS} to {subject}", [table(gain.table, unranked=shown, own=[WITH]), paragraph(gain.sentence)])


def naming_gain(
    done: Finished, features: StoreFeatures, codes: np.ndarray, groups: np.ndarray | None, n_classes: int
) -> BackboneGain | None:
    """Of a head that names classes; None where it reads no components, or training cells are of one class."""
    known = features.train & (codes >= 0)
    if COMPONENTS not in features.features or len(np.unique(codes[known])) < 2:
        return None
    return compare_backbones(*_states(done, features), codes, features.train, n_classes, groups)


def order_gain(
    done: Finished, features: StoreFeatures, times: np.ndarray, groups: np.ndarray | None
) -> BackboneGain | None:
    """Of a head that orders known stages or times; None where it reads no components, or there is nothing to order."""
    if COMPONENTS not in features.features:
        return None
    try:
        return compare_orders(*_states(done, features), times, features.train, groups)
    except ValueError as error:
        log.info("%s is left out: %s", ADDS, error)
        return None


def integration_gain(done: Finished, data: CellData, before: Checkpoint) -> BackboneGain | None:
    """Of ``integration/triplet``, which reads the state of cells alone; None for other heads and without components."""
    task = done.module.task
    if not isinstance(task, Triplet) or task.state.width == task.state.deep:
        return None
    rows = np.sort(np.concatenate([data.split.train, done.judged]))
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_CELLS, replace=False))
    obs = {name: data.store.obs(name)[rows] for name in task.labels}
    if len(np.unique(obs[task.batch_key][obs[task.batch_key] >= 0])) < 2:
        return None
    device = done.module.device
    embeddings = {}
    for name, make in ((WITH, partial(restore_backbone, before)), (RANDOM, partial(random_backbone, before, 0))):
        backbone = cast("Backbone", make().to(device))
        step = embed_step(backbone, data.store.vocab, task.view)
        embeddings[name] = predict(step, data.loader(rows, alone=True), rows, device)["embedding"]
    counts = data.store.counts(rows, data.max_length) if task.counts else None
    part = task.state.variable or task.state.components
    components = part.transform(data.store.gather(rows, data.max_length), counts)
    make_head = partial(build, OmegaConf.create(dict(done.config["head"])), done.module.spec)
    return compare_integrations(make_head, embeddings, components, rows, obs)


def _states(done: Finished, features: StoreFeatures) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[int, ...]]:
    """Embeddings by name, components, and the widths of the components' blocks."""
    values = features.features
    components = values[COMPONENTS]
    blocks = tuple(getattr(getattr(done.module.task, "state", None), "blocks", ()))[1:]
    if sum(blocks) != components.shape[1]:
        blocks = (components.shape[1],)
    return {WITH: values[FROZEN], RANDOM: values[UNTRAINED]}, components, blocks
