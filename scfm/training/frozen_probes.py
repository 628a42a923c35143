"""What stands beside a fine-tuned head in its report: the same probe on backbones that were not fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from scfm.checkpoint import Checkpoint
from scfm.data.module import CellData
from scfm.evaluate.cost import Cost
from scfm.evaluate.evaluate import FROZEN, UNTRAINED
from scfm.evaluate.probes import Calls, Model, cross_predict, fixed, linear, majority
from scfm.evaluate.trajectory import ridged
from scfm.inference.load import restore_backbone
from scfm.metrics.annotation import annotation_scores
from scfm.metrics.trajectory import trajectory_scores
from scfm.model.pooling import embed
from scfm.training.backbones import untrained

#: Training cells that probes learn from, at most.
MOST = 10_000
#: Genes of the probe that knows no backbone.
N_GENES = 2000
GENES = "genes by rank"


@dataclass(frozen=True)
class Beside:
    """Features of training and judged cells, by what made them.

    Attributes:
        rows: (n,) store rows.
        train: (n,) bool: training cells.
        features: (n, F) by name.
        costs: seconds and megabytes by name.
    """

    rows: np.ndarray
    train: np.ndarray
    features: dict[str, np.ndarray]
    costs: pd.DataFrame


def look_beside(
    before: Checkpoint, data: CellData, judged: np.ndarray, device: torch.device, *, probes: bool = True
) -> Beside:
    """Features of (at most 10,000) training cells and the judged ones.

    Args:
        before: the pretrained checkpoint.
        data: the store and its split.
        judged: rows of the cells that the head is judged on.
        device: where to compute.
        probes: whether probes will learn from training cells; else the pretrained backbone reads the judged ones
            alone, which takes a fraction of the time.
    """
    rng = np.random.default_rng(0)
    train = data.split.train if probes else data.split.train[:0]
    if len(train) > MOST:
        train = rng.choice(train, MOST, replace=False)
    rows = np.sort(np.concatenate([train, judged]))
    learnt = np.isin(rows, train)
    makers: dict[str, Callable[[], np.ndarray]] = {
        FROZEN: lambda: embeddings(restore_backbone(before), data, rows, device),
        UNTRAINED: lambda: embeddings(untrained(before, 0), data, rows, device),
        GENES: lambda: ranked_genes(data, rows, learnt),
    }
    if not probes:
        makers = {FROZEN: makers[FROZEN]}
    features, costs = {}, {}
    for name, make in makers.items():
        with Cost() as cost:
            features[name] = make()
        costs[name] = {"seconds": cost.seconds, "megabytes": cost.megabytes}
    return Beside(rows, learnt, features, pd.DataFrame.from_dict(costs, orient="index"))


@torch.inference_mode()
def embeddings(backbone: Any, data: CellData, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """(n, D) float32 of cells of the store, in the order of ``rows`` (ascending)."""
    backbone = backbone.to(device).eval()
    found = np.zeros((len(rows), backbone.width), dtype=np.float32)
    for batch in data.loader(rows, alone=True):
        values = embed(backbone, batch.to(device), data.store.vocab)
        found[np.searchsorted(rows, batch.index.numpy())] = values.float().cpu().numpy()
    return found


def ranked_genes(data: CellData, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(n, 2000) float32: 1 / log2(2 + rank) of the genes that vary most among the training cells; 0 where absent."""
    tokens = data.store.gather(rows, data.max_length)
    starts = np.repeat(tokens.offsets[:-1], tokens.lengths)
    weight = 1 / np.log2(2 + np.arange(len(tokens.values)) - starts)
    shape = (len(rows), len(data.store.vocab))
    table = csr_matrix((weight, tokens.values.astype(np.int64), tokens.offsets), shape=shape)[
        :, data.store.vocab.gene_ids
    ]
    learnt = table[train]
    mean = np.asarray(learnt.mean(axis=0)).ravel()
    variance = np.asarray(learnt.multiply(learnt).mean(axis=0)).ravel() - mean**2
    return table[:, np.argsort(-variance, kind="stable")[:N_GENES]].toarray().astype(np.float32)


def name_beside(beside: Beside, codes: np.ndarray, n_classes: int, heads: Mapping[str, Calls]) -> pd.DataFrame:
    """A head's calls and those of probes, on the same cells.

    Args:
        beside: features.
        codes: (n,) class codes of its rows, -1 where missing.
        n_classes: C.
        heads: its calls by name; rows are places in ``beside.rows``.

    Returns:
        Methods × scores of :func:`scfm.metrics.annotation.annotation_scores`, seconds and megabytes; best first.
    """
    fold = (np.flatnonzero(beside.train & (codes >= 0)), np.flatnonzero(~beside.train & (codes >= 0)))
    rows = {name: annotation_scores(codes, own, n_classes) for name, own in heads.items()}
    models: dict[str, tuple[np.ndarray, Model]] = {
        f"{n}, linear probe": (f, linear) for n, f in beside.features.items()
    }
    models["majority class"] = (np.zeros((len(codes), 1)), majority)
    for name, (features, model) in models.items():
        with Cost() as cost:
            calls = cross_predict(fixed(features), model, codes, [fold])
        base = name.removesuffix(", linear probe")
        paid = beside.costs.loc[base] if base in beside.costs.index else pd.Series({"seconds": 0.0, "megabytes": 0.0})
        rows[name] = annotation_scores(codes, calls, n_classes) | {
            "seconds": cost.seconds + paid["seconds"],
            "megabytes": max(cost.megabytes, paid["megabytes"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("macro_f1", ascending=False)


def order_beside(beside: Beside, truth: np.ndarray, head: np.ndarray) -> pd.DataFrame:
    """A head's pseudotime and ridge regressions, on the same cells.

    Args:
        beside: features.
        truth: (n,) known times of its rows, NaN where unknown.
        head: (n,) its pseudotime; NaN for cells that it is not judged on.
    """
    judged = ~beside.train
    rows = {"fine-tuned head": trajectory_scores(head[judged], truth[judged])}
    for name, features in beside.features.items():
        fold = (np.flatnonzero(beside.train), np.flatnonzero(judged))
        with Cost() as cost:
            found = ridged(features, truth, [fold])
        paid = beside.costs.loc[name]
        rows[f"{name}, ridge regression"] = trajectory_scores(found[judged], truth[judged]) | {
            "seconds": cost.seconds + paid["seconds"],
            "megabytes": max(cost.megabytes, paid["megabytes"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("spearman", ascending=False)
