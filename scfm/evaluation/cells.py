"""What is evaluated: the cells, their labels, batches and groups, checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, overload

import numpy as np
import pandas as pd
from anndata import AnnData

from scfm.evaluation.methods.components import state_key
from scfm.evaluation.methods.expression import Expression, finite_counts, read_expression
from scfm.evaluation.options import Options
from scfm.evaluation.times import read_times
from scfm.head.trajectory.base import PSEUDOTIME
from scfm.store.obs_columns import value_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cells:
    """Everything an evaluation reads.

    Attributes:
        names: (B,) of the cells.
        embedding: (B, D) float64, finite.
        expression: log-normalized counts.
        labels: (B,) names, "" where missing; None without a label column.
        classes: names of the classes.
        codes: (B,) class codes, -1 where missing; all -1 without a label column.
        batch: (B,) names; None without a batch column.
        group: (B,) names; None where single cells are split.
        called: (B,) the head's own calls; None where there are none.
        guessed: (B,) the likeliest classes by the head, also of cells that it calls unknown; None likewise.
        voted: (B,) the names by the majority of a cell's neighbors; None where there are none.
        confidence: (B,) how sure they are.
        others: further embeddings to compare with, (B, D') each, by key of obsm.
        written: keys of obsm that scfm-embed wrote.
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
    called: np.ndarray | None = None
    confidence: np.ndarray | None = None
    guessed: np.ndarray | None = None
    voted: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    written: frozenset[str] = frozenset()
    condition: np.ndarray | None = None
    finer: np.ndarray | None = None
    times: np.ndarray | None = None
    stages: tuple[str, ...] = ()
    pseudotime: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


def read_cells(adata: AnnData, options: Options) -> tuple[Cells, list[str]]:
    """Check an AnnData and take out what the evaluation reads.

    Args:
        adata: cells; not modified.
        options: which columns and embeddings; see :class:`scfm.evaluation.options.Options`.

    Returns:
        The cells, without those that have no embedding, no counts or no batch, and a note for each reason.

    Raises:
        ValueError: no such embedding or column, an embedding without a finite row, one batch or one class only,
            nothing to score by, or no counts.
    """
    if options.label is None and options.batch is None and options.time is None:
        raise ValueError("nothing to score by: give label=COLUMN (cell types), batch=COLUMN, time=COLUMN or several")
    keys = _embedding_keys(adata, options)
    adata, notes = _complete(adata, keys, options)
    names, batches, groups, condition, finer, times = (
        _column(adata, getattr(options, role), role)
        for role in ("label", "batch", "group", "condition", "finer", "time")
    )
    classes, codes = _classes(names, options.label, adata.n_obs)
    if batches is not None:
        _check_batches(batches, names, str(options.batch))
    embeddings = {key: _embedding(adata, key) for key in keys}
    known, stages = (None, ()) if times is None else read_times(times, str(options.time), options.stages)
    cells = Cells(
        names=np.asarray(adata.obs_names, dtype=object),
        embedding=embeddings.pop(options.embedding),
        expression=read_expression(adata, options.layer),
        labels=names,
        classes=classes,
        codes=codes,
        batch=batches,
        group=batches if groups is None else groups,
        **_predictions(adata.obs, options.label),
        others=embeddings,
        written=frozenset(embedding_records(adata)),
        condition=condition,
        finer=finer,
        times=known,
        stages=stages,
    )
    return cells, notes


def _embedding_keys(adata: AnnData, options: Options) -> list[str]:
    """The embedding in question first, then what its head reads, then the others, each once."""
    state = state_key(options.embedding)
    keys = [options.embedding, *([state] if state in adata.obsm else []), *options.others]
    return list(dict.fromkeys(keys))


def _complete(adata: AnnData, keys: Sequence[str], options: Options) -> tuple[AnnData, list[str]]:
    """The cells whose embeddings and counts are finite and whose batch is known, and what to say of the rest."""
    masks = {
        f"have NaN or infinite numbers in obsm[{key!r}]": np.isfinite(_matrix(adata, key)).all(axis=1) for key in keys
    }
    masks["have NaN or infinite counts"] = finite_counts(adata, options.layer)
    if options.batch is not None:
        masks[f"have no {options.batch}"] = _column(adata, options.batch, "batch") != ""
    notes = []
    for reason, usable in masks.items():
        n_lost = int((~usable).sum())
        if n_lost == len(usable):
            raise ValueError(f"all {n_lost} cells {reason}: embed the cells again, or name other columns")
        if n_lost:
            first = adata.obs_names[np.flatnonzero(~usable)[0]]
            notes.append(f"{n_lost:,} of {len(usable):,} cells {reason} and are left out; the first is {first!r}.")
    keep = np.all(list(masks.values()), axis=0)
    if not keep.any():
        raise ValueError(f"no cell is left to score: {' '.join(notes)}")
    return (adata, []) if keep.all() else (adata[keep], notes)


def _predictions(obs: pd.DataFrame, label: str | None) -> dict[str, np.ndarray]:
    """What a head has written of the cells: arguments of :class:`Cells`."""
    own, predictions = f"scfm_{label}", dict[str, np.ndarray]()
    if label is not None and own in obs and f"{own}_confidence" in obs:
        predictions = {"called": _text(obs[own]), "confidence": obs[f"{own}_confidence"].to_numpy(dtype=np.float64)}
        if f"{own}_guess" in obs:
            predictions["guessed"] = _text(obs[f"{own}_guess"])
        if f"{own}_majority" in obs:
            predictions["voted"] = _text(obs[f"{own}_majority"])
    if PSEUDOTIME in obs:
        predictions["pseudotime"] = obs[PSEUDOTIME].to_numpy(dtype=np.float64)
    return predictions


def embedding_records(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """What scfm-embed wrote into ``uns["scfm"]``, by key of obsm, also of the further entries that it wrote."""
    written = adata.uns.get("scfm")
    if not isinstance(written, Mapping):
        return {}
    records = {str(key): record for key, record in written.items() if isinstance(record, Mapping)}
    further = {str(key): record for record in records.values() for key in record.get("projections", ())}
    return further | records


def select(cells: Cells, rows: np.ndarray) -> Cells:
    """Only some of the cells."""
    per_cell = {
        attribute.name: value[rows]
        for attribute in fields(cells)
        if isinstance(value := getattr(cells, attribute.name), np.ndarray)
    }
    others = {name: values[rows] for name, values in cells.others.items()}
    return replace(cells, **per_cell, expression=cells.expression.select(rows), others=others)


def _matrix(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        have = ", ".join(adata.obsm) or "none"
        raise ValueError(
            f"obsm has no {key!r}; the embeddings of this file are: {have}. Make one with scfm-embed, or name another "
            "(embedding=...)"
        )
    values = np.asarray(adata.obsm[key], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"obsm[{key!r}] has shape {values.shape}; expected cells × dimensions")
    return values


def _embedding(adata: AnnData, key: str) -> np.ndarray:
    values = _matrix(adata, key)
    if not np.ptp(values, axis=0).any():
        raise ValueError(f"obsm[{key!r}] is the same in all {len(values)} cells; embed them again")
    return values


@overload
def _column(adata: AnnData, name: str, role: str) -> np.ndarray: ...
@overload
def _column(adata: AnnData, name: str | None, role: str) -> np.ndarray | None: ...
def _column(adata: AnnData, name: str | None, role: str) -> np.ndarray | None:
    if name is None:
        return None
    if name not in adata.obs:
        have = ", ".join(map(str, adata.obs.columns)) or "none"
        raise ValueError(f"{role}={name!r} is not a column of obs; the columns are: {have}")
    return _text(adata.obs[name])


def _text(column: pd.Series) -> np.ndarray:
    """(B,) the text of each value, as a store writes it (1.0 is ``1``); "" where it is missing."""
    rows, values = pd.factorize(column)
    return np.array([*(value_text(value) or "" for value in values), ""], dtype=object)[rows]


def _classes(names: np.ndarray | None, label: str | None, n_cells: int) -> tuple[tuple[str, ...], np.ndarray]:
    if names is None:
        return (), np.full(n_cells, -1)
    classes = tuple(sorted(set(names) - {""}))
    if not classes:
        raise ValueError(f"label={label!r} is missing in all {n_cells} cells; name a column that has labels")
    if len(classes) < 2:
        raise ValueError(f"label={label!r} is {classes[0]!r} in all labeled cells; scores need at least two classes")
    sizes = {name: int((names == name).sum()) for name in classes}
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        log.warning(
            "%d class(es) of %s have one cell and cannot be scored well: %s", len(single), label, ", ".join(single)
        )
    if (names == "").any():
        log.warning(
            "%d of %d cells have no %s and are left out of the scores", int((names == "").sum()), n_cells, label
        )
    place = {name: code for code, name in enumerate(classes)}
    return classes, np.array([place.get(name, -1) for name in names], dtype=np.int64)


def _check_batches(batches: np.ndarray, labels: np.ndarray | None, name: str) -> None:
    if len(set(batches)) < 2:
        raise ValueError(
            f"batch={name!r} is {batches[0]!r} in all cells; mixing needs at least two batches: leave batch out or "
            "name another column"
        )
    if labels is None:
        return
    table = pd.crosstab(batches[labels != ""], labels[labels != ""], rownames=[name], colnames=["label"])
    if ((table > 0).sum(axis=0) <= 1).all():
        log.warning(
            "every label occurs in one %s only, so batch and type cannot be told apart and the batch scores mean "
            "little:\n%s",
            name,
            table.to_string(max_rows=12, max_cols=12),
        )
