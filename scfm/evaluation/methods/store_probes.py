"""Probes on cells of a store, beside a fine-tuned head: the same classifier on what it reads and on other backbones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from scfm.checkpoint import Checkpoint
from scfm.data.module import CellData
from scfm.evaluation.methods.components import gene_components
from scfm.evaluation.methods.cost import measure
from scfm.evaluation.methods.method import COMPONENTS, FROZEN, LINEAR, UNTRAINED, Method, probe
from scfm.evaluation.methods.probes import Calls, constant_features, cross_predict, linear, majority
from scfm.evaluation.origin.backbones import random_backbone
from scfm.evaluation.trajectory import ridge_predictions
from scfm.evaluation.verdict import describe_gain
from scfm.inference.load import restore_backbone
from scfm.inference.predict import embeddings, predictions
from scfm.metrics.annotation import annotation_scores, bootstrap
from scfm.metrics.trajectory import trajectory_scores
from scfm.module import CellModule

#: Training cells that probes learn from, at most.
MAX_CELLS = 2_000
#: Genes of the probe that uses no backbone.
N_GENES = 2000
GENES = "genes by rank"
#: The fine-tuned backbone alone, and what its head reads of it.
EMBEDDING, STATE = "X_scfm", "X_scfm_state"


@dataclass(frozen=True)
class StoreFeatures:
    """Features of training cells and scored cells, by what made them.

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

    @property
    def scored(self) -> np.ndarray:
        """(n,) bool: the cells that methods are scored on."""
        return ~self.train


def read_features(
    before: Checkpoint, data: CellData, scored: np.ndarray, device: torch.device, *, probes: bool = True
) -> StoreFeatures:
    """Features of (at most 2,000) training cells and the scored ones, by backbones that were not fine-tuned.

    Args:
        before: the pretrained checkpoint.
        data: the store and its split.
        scored: rows of the cells that the head is scored on.
        device: where to compute.
        probes: whether probes will learn from training cells; else the pretrained backbone reads the scored ones
            alone, which takes a fraction of the time.
    """
    rng = np.random.default_rng(0)
    train = data.split.train if probes else data.split.train[:0]
    if len(train) > MAX_CELLS:
        train = rng.choice(train, MAX_CELLS, replace=False)
    rows = np.sort(np.concatenate([train, scored]))
    learned = np.isin(rows, train)
    makers: dict[str, Callable[[], np.ndarray]] = {
        FROZEN: lambda: embeddings(restore_backbone(before), data, rows, device)
    }
    if probes:
        makers[UNTRAINED] = lambda: embeddings(random_backbone(before, 0), data, rows, device)
        makers[GENES] = lambda: ranked_genes(data, rows, learned)
    return StoreFeatures(rows, learned, *measure(makers))


def add_state(
    features: StoreFeatures, module: CellModule, data: CellData, outputs: Mapping[str, np.ndarray]
) -> StoreFeatures:
    """The same with what the fine-tuned head reads, where that is more than the backbone's embedding.

    Args:
        features: of other backbones.
        module: the fine-tuned backbone and head, whose predictions hold ``embedding`` (n, D), the backbone alone, and
            ``state`` (n, D + k) where the head also reads gene components.
        data: the store.
        outputs: its predictions for the scored cells.

    Returns:
        With the embedding, the components and both together; unchanged where the head reads no components.
    """
    if gene_components(outputs["embedding"], outputs.get("state")) is None:
        return features
    learned = predictions(module, data, features.rows[features.train])

    def whole(name: str) -> np.ndarray:
        values = np.empty((len(features.rows), outputs[name].shape[1]), dtype=np.float32)
        values[features.train], values[features.scored] = learned[name], outputs[name]
        return values

    embedding, state = whole("embedding"), whole("state")
    components = gene_components(embedding, state)
    assert components is not None
    added = {EMBEDDING: embedding, COMPONENTS: components, STATE: state}
    return replace(features, features=features.features | added)


def ranked_genes(data: CellData, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(n, 2000) float32: 1 / log2(2 + rank) of the genes that vary most among the training cells; 0 where absent."""
    tokens = data.store.gather(rows, data.max_length)
    starts = np.repeat(tokens.offsets[:-1], tokens.lengths)
    weight = 1 / np.log2(2 + np.arange(len(tokens.values)) - starts)
    shape = (len(rows), len(data.store.vocab))
    table = csr_matrix((weight, tokens.values.astype(np.int64), tokens.offsets), shape=shape)[
        :, data.store.vocab.gene_ids
    ]
    learned = table[train]
    mean = np.asarray(learned.mean(axis=0)).ravel()
    variance = np.asarray(learned.multiply(learned).mean(axis=0)).ravel() - mean**2
    return table[:, np.argsort(-variance, kind="stable")[:N_GENES]].toarray().astype(np.float32)


@dataclass(frozen=True)
class StoreProbes:
    """A head and probes, scored on the same cells of a store.

    Attributes:
        methods: the head's, then those of the probes.
        calls: by method.
        scores: methods × scores of :func:`scfm.metrics.annotation.annotation_scores`, seconds and megabytes; best
            first.
    """

    methods: tuple[Method, ...]
    calls: dict[str, Calls]
    scores: pd.DataFrame


def score_calls(features: StoreFeatures, codes: np.ndarray, n_classes: int, heads: Mapping[str, Calls]) -> StoreProbes:
    """Score a head's calls and those of probes on the same cells.

    Args:
        features: of training cells and scored cells.
        codes: (n,) class codes of its rows, -1 where missing.
        n_classes: C.
        heads: the head's calls by name; their rows are places in ``features.rows``.
    """
    known = codes >= 0
    folds = [(np.flatnonzero(features.train & known), np.flatnonzero(features.scored & known))]
    probes = {probe(name, LINEAR, "ablation"): values for name, values in features.features.items()}
    makers = {
        method.name: partial(cross_predict, constant_features(values), linear, codes, folds)
        for method, values in probes.items()
    }
    nothing = Method("majority class", "", "majority class", "control")
    makers[nothing.name] = partial(cross_predict, constant_features(np.zeros((len(codes), 1))), majority, codes, folds)
    made, costs = measure(makers)
    for method in probes:
        if method.space in features.costs.index:
            _add_cost(costs, method.name, features.costs.loc[method.space])
    calls = {**heads, **made}
    scores = {name: annotation_scores(codes, own, n_classes) for name, own in calls.items()}
    table = pd.DataFrame.from_dict(scores, orient="index").join(costs).sort_values("macro_f1", ascending=False)
    methods = (*(Method(name, name, "", "ours") for name in heads), *probes, nothing)
    return StoreProbes(methods, calls, table)


def component_sentence(
    probes: StoreProbes, codes: np.ndarray, groups: np.ndarray | None, n_classes: int, seed: int = 0
) -> list[str]:
    """What the backbone adds to the gene components, and they to it, by a paired bootstrap.

    Args:
        probes: with those on the embedding, the components and both together.
        codes: (n,) class codes.
        groups: (n,) donors or the like, which are resampled whole; None resamples single cells.
        n_classes: C.
        seed: of the resamples.

    Returns:
        A sentence; none where the head reads no components.
    """
    wanted = {method.space: method.name for method in probes.methods if method.model == LINEAR}
    if STATE not in wanted:
        return []
    chosen = [wanted[space] for space in (EMBEDDING, COMPONENTS, STATE)]
    draws = {name: bootstrap(codes, probes.calls[name], groups, n_classes, seed=seed) for name in chosen}
    return [describe_gain(probes.scores["macro_f1"], draws, *chosen)]


def score_pseudotime(features: StoreFeatures, truth: np.ndarray, head: np.ndarray) -> pd.DataFrame:
    """Score a head's pseudotime and ridge regressions on the same cells.

    Args:
        features: of training cells and scored cells.
        truth: (n,) known times of its rows, NaN where unknown.
        head: (n,) its pseudotime; NaN for cells that it is not scored on.

    Returns:
        Methods × scores of :func:`scfm.metrics.trajectory.trajectory_scores`; best first.
    """
    folds = [(np.flatnonzero(features.train), np.flatnonzero(features.scored))]
    made, costs = measure(
        {name: partial(ridge_predictions, values, truth, folds) for name, values in features.features.items()}
    )
    for name in features.costs.index:
        _add_cost(costs, name, features.costs.loc[name])
    costs.index = pd.Index([f"{name}, ridge regression" for name in costs.index])
    times = {"fine-tuned head": head} | {f"{name}, ridge regression": values for name, values in made.items()}
    scores = {
        name: trajectory_scores(values[features.scored], truth[features.scored]) for name, values in times.items()
    }
    return pd.DataFrame.from_dict(scores, orient="index").join(costs).sort_values("spearman", ascending=False)


def _add_cost(costs: pd.DataFrame, name: str, features: pd.Series) -> None:
    """Add to the cost of a probe that of the features it reads."""
    costs.loc[name, "seconds"] += features["seconds"]
    costs.loc[name, "megabytes"] = max(costs.loc[name, "megabytes"], features["megabytes"])
