"""Embed all cells with the pretrained backbone, for heads that are fitted before the first step."""

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from scfm.batch import Batch
from scfm.data.module import CellData, whole_groups
from scfm.head.base import Head
from scfm.head.survey import Survey
from scfm.inference.predict import embed_step, predict
from scfm.model.backbone import Backbone

log = logging.getLogger(__name__)


def prepare_head(head: Head, backbone: Backbone, data: CellData) -> CellData:
    """Prepare a head on the cells, where it has that hook; returns the data with the micro-batches that it needs then.

    Every rank prepares the head by itself; micro-batches are composed by the first one's (:meth:`CellData.setup`).
    """
    if "prepare" in head.hooks:
        head.prepare(survey(backbone, data, head.view))
    return data.planned(head.requirements())


def survey(backbone: Backbone, data: CellData, view: Callable[[Batch], Batch]) -> Survey:
    """Embed the cells of all parts of the split: all of them on every rank, in micro-batches that are the same.

    Args:
        backbone: before fine-tuning.
        data: its store, split and labels.
        view: what the head lets the backbone read of a batch.
    """
    parts = [data.split.train, data.split.val, data.split.test]
    rows = np.sort(np.concatenate(parts))
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    log.info("Embedding %d cells with the pretrained backbone to prepare the head.", len(rows))
    training = backbone.training
    step = embed_step(backbone.to(device), data.store.vocab, view)
    embedding = predict(step, data.loader(rows, alone=True), rows, device)["embedding"]
    backbone.train(training)
    return Survey(
        rows=rows,
        train=np.isin(rows, data.split.train),
        embedding=embedding,
        obs={label: data.store.obs(label)[rows] for label in data.plan.labels},
        names=data.store.names(rows),
        tokens=lambda places: data.store.gather(rows[places], data.max_length),
        counts=(lambda places: data.store.counts(rows[places], data.max_length)) if data.plan.counts else None,
        fields={kind: partial(_field, data, kind, rows) for kind in data.plan.fields},
        groups=None if data.group is None else whole_groups(data.store, data.group)[rows],
    )


def _field(data: CellData, kind: str, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A second modality of the cells at some places of the surveyed rows."""
    return data.store.field(kind, rows[places])
