"""The one loop in which a model reads cells outside of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.data.module import CellData
from scfm.model.backbone import Backbone
from scfm.model.pooling import embed
from scfm.model.readout import reads_counts
from scfm.module import CellModule
from scfm.types import PROTEIN, field_key
from scfm.vocab import Vocab

#: What is asked of a batch: arrays (B, ...) by name, on the host.
Step: TypeAlias = Callable[[Batch], Mapping[str, np.ndarray]]


@torch.inference_mode()
def predict(
    step: Step,
    batches: Iterable[Batch],
    rows: np.ndarray,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """What a model says of cells.

    Args:
        step: asked of each batch; see :func:`predict_step` and :func:`embed_step`.
        batches: cells whose ``index`` is among ``rows``, in any order.
        rows: (n,) int64, ascending.
        device: where batches are sent.
        advance: told of the cells of each batch, for a progress bar.

    Returns:
        Arrays (n, ...) float32 in the order of ``rows``, NaN for rows that no batch holds; empty without a batch.
    """
    arrays: dict[str, np.ndarray] = {}
    for batch in batches:
        places = np.searchsorted(rows, batch.index.numpy())
        for name, values in step(batch.to(device)).items():
            if name not in arrays:
                arrays[name] = np.full((len(rows), *values.shape[1:]), np.nan, dtype=np.float32)
            arrays[name][places] = values
        if advance is not None:
            advance(batch.n_cells)
    return arrays


def predict_step(module: CellModule) -> Step:
    """What ``module.predict_step`` says: ``embedding`` and what the head predicts; the module is set to evaluation."""
    module.eval()

    def step(batch: Batch) -> dict[str, np.ndarray]:
        return {name: values for name, values in module.predict_step(batch, 0).items() if name != "index"}

    return step


def embed_step(backbone: Backbone, vocab: Vocab, view: Callable[[Batch], Batch] = lambda batch: batch) -> Step:
    """``embedding`` (B, D) alone, by the backbone's own rule.

    Args:
        backbone: set to evaluation.
        vocab: says which tokens are special.
        view: what the backbone reads of a batch.
    """
    backbone.eval()

    def step(batch: Batch) -> dict[str, np.ndarray]:
        embedding: Tensor = embed(backbone, view(batch), vocab)
        return {"embedding": embedding.float().cpu().numpy()}

    return step


def predictions(module: CellModule, data: CellData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What a module says of cells of a store, (n, ...) by name, in the order of ``rows`` (ascending).

    Returns:
        ``embedding`` (n, D) and the head's outputs; empty where there are no rows.
    """
    return predict(predict_step(module), data.loader(rows, alone=True), rows, module.device) if len(rows) else {}


def embeddings(backbone: Any, data: CellData, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """(n, D) float32, a backbone's embeddings of cells of a store, in the order of ``rows`` (ascending)."""
    step = embed_step(backbone.to(device), data.store.vocab)
    if not len(rows):
        return np.zeros((0, backbone.width), dtype=np.float32)
    data = data.with_counts() if reads_counts(backbone) else data
    return predict(step, data.loader(rows, alone=True), rows, device)["embedding"]


def targets(data: CellData, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """The obs columns that the head names and the proteins that it reads, of some cells."""
    proteins = {field_key(kind): data.store.field(kind, rows) for kind in data.plan.fields if kind == PROTEIN}
    return {label: data.store.obs(label)[rows] for label in data.plan.labels} | proteins
