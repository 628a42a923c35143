"""Groups of the cells of an analysis: a column of obs, or what the model's head calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scfm.analysis.base import Work
from scfm.analysis.cells import read_cells
from scfm.head.annotation.class_prototypes import PrototypeHead
from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.label_layer import UNKNOWN
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.inference.predict import predict, predict_step
from scfm.store.obs_columns import MISSING


@dataclass(frozen=True)
class Groups:
    """Cells with a group.

    Attributes:
        rows: (n,) rows of the file, ascending.
        codes: (n,) group of each.
        names: of the groups.
        dropped: why cells are left out, and how many.
    """

    rows: np.ndarray
    codes: np.ndarray
    names: tuple[str, ...]
    dropped: Mapping[str, int]


def column_values(given: CellInput, column: str) -> np.ndarray:
    """(n_cells,) names of an obs column, "" where missing.

    Raises:
        ValueError: no such column.
    """
    given.cells.require_obs([column])
    text = pd.Series(given.cells.obs[column]).astype(object)
    values = np.array(["" if pd.isna(value) else str(value) for value in text], dtype=object)
    values[np.isin(values.astype(str), sorted(MISSING))] = ""
    return values


def predicted_values(model: Model, given: CellInput, work: Work) -> np.ndarray:
    """(n_cells,) the class that the model's annotation head gives each cell, "" where it calls it unknown.

    Raises:
        ValueError: the model has no such head.
    """
    if not isinstance(model.head, Classifier | PrototypeHead):
        raise ValueError(
            f"{model.checkpoint.path} has no annotation head that could name the cells; give analysis.label=COLUMN of "
            "obs, or fine-tune head=annotation/classifier"
        )
    n = given.cells.n_cells
    settings = work.settings
    batches = given.batches(tokens=settings.tokens_per_batch, block_size=settings.block_size, part_size=max(n, 1))
    with work.bar("Naming cells", n) as advance:
        arrays = predict(predict_step(model.module), batches, np.arange(n), model.module.device, advance)
    called = model.head.write(arrays).obs[f"scfm_{model.head.labels[0]}"].astype(object)
    called[called == UNKNOWN] = ""
    return called


def neighbor_values(given: CellInput, values: np.ndarray, seed: int, n_neighbors: int = 15) -> np.ndarray:
    """Names by the nearest cells on 30 principal components of expression, each fold named by the four others.

    Args:
        given: open cells.
        values: (n_cells,) true names, "" where missing.
        seed: of the folds.
        n_neighbors: cells that vote.

    Returns:
        (n_cells,) names, "" where the true one is missing or a cell has no known gene.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.model_selection import KFold
    from sklearn.neighbors import KNeighborsClassifier

    read = read_cells(given, np.flatnonzero(values != ""))
    logs = read.log_normalized()
    width = max(min(30, min(logs.shape) - 1), 1)
    components = TruncatedSVD(width, random_state=seed).fit_transform(logs)
    truth, named = values[read.rows].astype(str), np.full(len(values), "", dtype=object)
    for kept, held in KFold(min(5, len(truth)), shuffle=True, random_state=seed).split(components):
        voters = KNeighborsClassifier(min(n_neighbors, len(kept))).fit(components[kept], truth[kept])
        named[read.rows[held]] = voters.predict(components[held])
    return named


def find_groups(values: np.ndarray, min_cells: int, what: str) -> Groups:
    """Groups of enough cells.

    Args:
        values: (n_cells,) names, "" where missing.
        min_cells: smaller groups are left out.
        what: where the names come from, for messages.

    Raises:
        ValueError: fewer than two groups are left.
    """
    counts = pd.Series(values[values != ""]).value_counts()
    names = sorted(counts.index[counts >= min_cells])
    if len(names) < 2:
        have = ", ".join(f"{name!r} ({n})" for name, n in counts.head(5).items()) or "none"
        raise ValueError(
            f"{what} has {len(names)} group(s) of at least {min_cells} cells, but an analysis of groups needs two; "
            f"it has: {have}"
        )
    codes = pd.Categorical(values, categories=names).codes.astype(np.int64)
    dropped = {"without a group": int((values == "").sum())}
    dropped[f"in groups of fewer than {min_cells} cells"] = int((codes < 0).sum()) - dropped["without a group"]
    return Groups(np.flatnonzero(codes >= 0), codes[codes >= 0], tuple(names), dropped)
