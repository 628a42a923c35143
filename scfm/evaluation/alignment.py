"""Simple methods that put two modalities into one space, beside a head."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from scfm.data.module import CellData
from scfm.head.multimodal.clip import Clip
from scfm.head.multimodal.contrast import canonical_directions
from scfm.head.multimodal.towers import PanelValues, PeakComponents
from scfm.head.variable_components import VariableComponents
from scfm.metrics.modality.alignment import foscttm, recall, transfer_accuracy
from scfm.types import PEAKS

HEAD, CCA, SHUFFLED = "scfm, this head", "PCA + CCA", "shuffled pairs"
#: Components of genes and of peaks, and canonical directions, of the simple method.
N_COMPONENTS, N_DIRECTIONS = 30, 10
#: Columns with more categories are names, not labels to carry over.
MAX_LABELS = 50


def compare_alignment(head: Clip, data: CellData, judged: np.ndarray, shared: dict[str, np.ndarray]) -> pd.DataFrame:
    """Scores of a head and of canonical correlation on the same held-out pairs.

    Args:
        head: trained.
        data: the store and its split.
        judged: (n,) rows of the held-out cells.
        shared: what the head predicts: ``shared`` and ``shared_other`` of the training cells and, after them, of the
            held-out cells.

    Returns:
        A row for each method: ``foscttm``, ``recall1``, ``recall10``, and for each categorical column the accuracy of
        labels carried from training cells, by genes, to held-out cells, by the other modality.
    """
    train = data.split.train
    rows = np.concatenate([train, judged])
    spaces = {
        HEAD: (shared["shared"], shared["shared_other"]),
        CCA: canonical_space(data, head.other, rows, len(train)),
    }
    labels = {
        column: data.store.obs(column)[rows]
        for column in data.store.columns
        if 1 < len(data.store.categories(column) or ()) <= MAX_LABELS
    }
    table = {}
    for method, (one, two) in spaces.items():
        table[method] = _scores(one, two, len(train), labels)
    one, two = spaces[HEAD]
    order = np.concatenate([np.arange(len(train)), len(train) + np.random.default_rng(0).permutation(len(judged))])
    table[SHUFFLED] = _scores(one, two[order], len(train), labels)
    return pd.DataFrame.from_dict(table, orient="index")


def _scores(one: np.ndarray, two: np.ndarray, n_train: int, labels: dict[str, np.ndarray]) -> dict[str, float]:
    known = np.isfinite(two[n_train:]).all(axis=1)
    genes, other = one[n_train:][known], two[n_train:][known]
    scores = {
        "foscttm": foscttm(genes, other),
        "recall1": recall(genes, other, 1),
        "recall10": recall(genes, other, 10),
    }
    for column, codes in labels.items():
        truth = codes[n_train:][known]
        scores[f"{column} carried over"] = transfer_accuracy(one[:n_train], codes[:n_train], other, truth)
    return scores


def canonical_space(data: CellData, other: str, rows: np.ndarray, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlation of principal components of both modalities, fitted on the first cells; (n, 10) each."""
    genes = VariableComponents(data.store.vocab, N_COMPONENTS)
    tokens = data.store.gather(rows)
    counts = data.store.counts(rows) if data.store.has_counts else np.ones(len(tokens.values), dtype=np.float32)
    values = genes.expression(tokens, counts)
    genes.fit(values[:n_train])
    one = genes.transform(tokens, counts).astype(np.float64)
    measured = data.store.field(other, rows)
    n = len(data.store.fields[other].names)
    reader = PeakComponents(n, N_COMPONENTS) if other == PEAKS else PanelValues(n)
    reader.fit(measured[:n_train])
    with torch.no_grad():
        two, known = (part.numpy() for part in reader(torch.from_numpy(measured)))
    two = two.astype(np.float64)
    fitted = known[:n_train]
    left, right, _ = canonical_directions(one[:n_train][fitted], two[:n_train][fitted], N_DIRECTIONS, 0.0)
    found = (two - two[:n_train][fitted].mean(axis=0)) @ right
    found[~known] = np.nan
    return (one - one[:n_train][fitted].mean(axis=0)) @ left, found
