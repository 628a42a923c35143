"""What is evaluated: the cells, their labels, batches and groups, checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluate.expression import Expression, read_expression
from scfm.evaluate.times import read_times
from scfm.head.trajectory.base import PSEUDOTIME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cells:
    """Everything an evaluation reads.

    Attributes:
        names: (B,) of the cells.
        embedding: (B, D) float64, finite.
        expression: log-normalised counts.
        labels: (B,) names, "" where missing; None without a label column.
        classes: names of the classes.
        codes: (B,) class codes, -1 where missing; all -1 without a label column.
        batch: (B,) names; None without a batch column.
        group: (B,) names; None where single cells are split.
        called: (B,) the head's own calls; None where there are none.
        guessed: (B,) the likeliest classes by the head, also of cells that it calls unknown; None likewise.
        confidence: (B,) how sure they are.
        others: further embeddings to compare with, (B, D') each, by name.
        condition: (B,) names, "" where missing; None without such a column.
        finer: (B,) names of subtypes, "" where missing; None without such a column.
        times: (B,) known times or ranks of stages, NaN where unknown; None without such a column.
        stages: names of the stages by rank; empty where times are numbers.
        pseudotime: (B,) the head's own, NaN where missing; None where there is none.
    """

    names: np.ndarray
    embedding: np.ndarray
    expression: Expression
    labels: np.ndarray | None
    classes: tuple[str, ...]
    codes: np.ndarray
    batch: np.ndarray | None
    group: np.ndarray | None
    called: np.ndarray | None
    confidence: np.ndarray | None
    guessed: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    condition: np.ndarray | None = None
    finer: np.ndarray | None = None
    times: np.ndarray | None = None
    stages: tuple[str, ...] = ()
    pseudotime: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


def read_cells(
    adata: AnnData,
    *,
    embedding: str,
    label: str | None,
    batch: str | None,
    group: str | None,
    layer: str | None,
    beside: Sequence[str] = (),
    condition: str | None = None,
    finer: str | None = None,
    time: str | None = None,
    stages: list[str] | None = None,
) -> Cells:
    """Check an AnnData and take out what the evaluation reads.

    Args:
        adata: cells; not modified.
        embedding: key of ``obsm``.
        label: obs column of cell types.
        batch: obs column of experimental batches.
        group: obs column that must not be on both sides of a split; None takes ``batch``.
        layer: where the counts are; None finds them.
        beside: further keys of ``obsm``.
        condition: obs column of a condition.
        finer: obs column of subtypes.
        time: obs column of known times or stages.
        stages: its categories from first to last; None: numbers.

    Returns:
        The cells.

    Raises:
        ValueError: no such embedding or column, an embedding with NaN, one batch or one class only, neither label nor
            batch, or no counts.
    """
    if label is None and batch is None and time is None:
        raise ValueError("nothing to judge by: give label=COLUMN (cell types), batch=COLUMN, time=COLUMN or several")
    names = _column(adata, label, "label") if label else None
    batches = _column(adata, batch, "batch") if batch else None
    groups = _column(adata, group, "group") if group else batches
    classes, codes = _classes(names, label, adata.n_obs)
    if batches is not None:
        _check_batches(batches, names, str(batch))
    values = _embedding(adata, embedding)
    own = f"scfm_{label}"
    times, named = (None, ()) if time is None else read_times(_column(adata, time, "time"), time, stages)
    has_calls = own in adata.obs and f"{own}_confidence" in adata.obs
    return Cells(
        names=np.asarray(adata.obs_names, dtype=object),
        embedding=values,
        expression=read_expression(adata, layer),
        labels=names,
        classes=classes,
        codes=codes,
        batch=batches,
        group=groups,
        called=_text(adata.obs[own]) if has_calls else None,
        confidence=adata.obs[f"{own}_confidence"].to_numpy(dtype=np.float64) if has_calls else None,
        guessed=_text(adata.obs[f"{own}_guess"]) if has_calls and f"{own}_guess" in adata.obs else None,
        others={name: _embedding(adata, name) for name in beside if name != embedding},
        condition=_column(adata, condition, "condition") if condition else None,
        finer=_column(adata, finer, "finer") if finer else None,
        times=times,
        stages=named,
        pseudotime=adata.obs[PSEUDOTIME].to_numpy(dtype=np.float64) if PSEUDOTIME in adata.obs else None,
    )


def thin(cells: Cells, rows: np.ndarray) -> Cells:
    """Only some of the cells."""

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    return replace(
        cells,
        names=cells.names[rows],
        embedding=cells.embedding[rows],
        expression=cells.expression.select(rows),
        codes=cells.codes[rows],
        labels=pick(cells.labels),
        batch=pick(cells.batch),
        group=pick(cells.group),
        called=pick(cells.called),
        confidence=pick(cells.confidence),
        guessed=pick(cells.guessed),
        others={name: values[rows] for name, values in cells.others.items()},
        condition=pick(cells.condition),
        finer=pick(cells.finer),
        times=pick(cells.times),
        pseudotime=pick(cells.pseudotime),
    )


def _embedding(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        have = ", ".join(adata.obsm) or "none"
        raise ValueError(
            f"obsm has no {key!r}; the embeddings of this file are: {have}. Make one with scfm-embed, or name another "
            "(embedding=...)"
        )
    values = np.asarray(adata.obsm[key], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"obsm[{key!r}] has shape {values.shape}; expected cells × dimensions")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        first = adata.obs_names[bad[0]]
        raise ValueError(
            f"obsm[{key!r}] holds NaN or infinite numbers in {len(bad)} of {len(values)} cells, the first is "
            f"{first!r}; embed the cells again or drop these"
        )
    if not np.ptp(values, axis=0).any():
        raise ValueError(f"obsm[{key!r}] is the same in all {len(values)} cells; embed them again")
    return values


def _column(adata: AnnData, name: str, role: str) -> np.ndarray:
    if name not in adata.obs:
        have = ", ".join(map(str, adata.obs.columns)) or "none"
        raise ValueError(f"{role}={name!r} is not a column of obs; the columns are: {have}")
    return _text(adata.obs[name])


def _text(column: pd.Series) -> np.ndarray:
    missing = column.isna().to_numpy()
    values = column.astype(str).to_numpy(dtype=object)
    values[missing] = ""
    return values


def _classes(names: np.ndarray | None, label: str | None, n_cells: int) -> tuple[tuple[str, ...], np.ndarray]:
    if names is None:
        return (), np.full(n_cells, -1)
    classes = tuple(sorted(set(names) - {""}))
    if not classes:
        raise ValueError(f"label={label!r} is missing in all {n_cells} cells; name a column that has labels")
    if len(classes) < 2:
        raise ValueError(f"label={label!r} is {classes[0]!r} in all labelled cells; scores need at least two classes")
    sizes = {name: int((names == name).sum()) for name in classes}
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        logger.warning(
            "%d class(es) of %s have one cell and cannot be scored well: %s", len(single), label, ", ".join(single)
        )
    if (names == "").any():
        logger.warning(
            "%d of %d cells have no %s and are left out of the scores", int((names == "").sum()), n_cells, label
        )
    place = {name: code for code, name in enumerate(classes)}
    return classes, np.array([place.get(name, -1) for name in names], dtype=np.int64)


def _check_batches(batches: np.ndarray, labels: np.ndarray | None, name: str) -> None:
    found = sorted(set(batches))
    if "" in found:
        raise ValueError(f"batch={name!r} is missing in {int((batches == '').sum())} cells; every cell needs its batch")
    if len(found) < 2:
        raise ValueError(
            f"batch={name!r} is {found[0]!r} in all cells; mixing needs at least two batches: leave batch out or name "
            "another column"
        )
    if labels is None:
        return
    table = pd.crosstab(batches[labels != ""], labels[labels != ""], rownames=[name], colnames=["label"])
    if ((table > 0).sum(axis=0) <= 1).all():
        logger.warning(
            "every label occurs in one %s only, so batch and type cannot be told apart and the batch scores mean "
            "little:\n%s",
            name,
            table.to_string(max_rows=12, max_cols=12),
        )
