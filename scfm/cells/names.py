"""The names of genes and of cells: which column holds them, whether a cell's name occurs twice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from scfm.cells.source import Source, did_you_mean
from scfm.genes.resolve import ensembl_id

log = logging.getLogger(__name__)

#: Columns that hold Ensembl ids and symbols in files of CELLxGENE, 10x, scanpy, loom and SOMA, by preference.
ENSEMBL_COLUMNS = ("ensembl_id", "gene_id", "gene_ids", "feature_id", "ensembl", "accession")
SYMBOL_COLUMNS = ("gene_name", "gene_names", "gene_symbols", "gene_symbol", "feature_name", "symbol", "gene")

#: Names and obs are read for this many cells at once.
WINDOW = 65_536


def gene_names(var: pd.DataFrame, column: str | None = None) -> tuple[list[str], str]:
    """The genes' names, and where in var they are.

    In order: ``column`` where given; the index, if most of it are Ensembl ids; the first usual column that is mostly
    Ensembl ids (where it is empty the index stands in), because symbols change and repeat; the first usual column of
    symbols, if the index are mere numbers; the index.

    Args:
        var: (G rows) the genes' table.
        column: a column, or "index".

    Returns:
        G names, and ``var.index`` or ``var['...']``.

    Raises:
        ValueError: no such column.
    """
    index = [str(name) for name in var.index]
    if column is not None and column in var.columns:
        return _fill_gaps(var[column], index), f"var[{column!r}]"
    if column is not None and column not in ("index", "_index", var.index.name):
        raise ValueError(f"var has no column {column!r} for gene_column; {did_you_mean(column, var_columns(var))}")
    if column is not None or _share(index) > 0.5:
        return index, "var.index"
    usual = {str(name).lower(): str(name) for name in var.columns}
    for name in (usual[key] for key in (*ENSEMBL_COLUMNS, *SYMBOL_COLUMNS) if key in usual):
        if _share([str(value) for value in var[name]]) > 0.5:
            log.info("genes are taken from var[%r], Ensembl ids, rather than from the index (%r, ...)", name, index[0])
            return _fill_gaps(var[name], index), f"var[{name!r}]"
    if index and all(name.isdigit() for name in index[:100]):
        for name in (usual[key] for key in (*ENSEMBL_COLUMNS, *SYMBOL_COLUMNS) if key in usual):
            return _fill_gaps(var[name], index), f"var[{name!r}]"
    return index, "var.index"


def has_names(var: pd.DataFrame) -> bool:
    """Whether a genes' table says which genes they are: not where its index are row numbers, with no usual column."""
    columns = {str(name).lower() for name in var.columns}
    return not columns.isdisjoint((*ENSEMBL_COLUMNS, *SYMBOL_COLUMNS)) or not all(
        str(name).isdigit() for name in var.index[:100]
    )


def var_columns(var: pd.DataFrame) -> list[str]:
    """The names that ``gene_column`` can take: the index, by its name where it has one, and the columns."""
    return [str(var.index.name or "index"), *map(str, var.columns)]


def _share(names: list[str]) -> float:
    """The share of Ensembl ids, of a thousand names or more evenly spread."""
    some = names[:: max(1, len(names) // 1000)]
    return sum(ensembl_id(name) is not None for name in some) / max(1, len(some))


def _fill_gaps(values: pd.Series, index: list[str]) -> list[str]:
    """The values as text, with the entry of the index where one is missing.

    Programs write a missing id as ``-``, ``NA``, ``0`` or another word: where most values are Ensembl ids, one that is
    none gives way to the index, unless that is a mere number.
    """
    empty = values.isna().to_numpy()
    texts = [str(value) for value in values]
    are_ids = _share(texts) > 0.5
    return [
        index[i]
        if empty[i]
        or text.strip() in ("", "nan", "None")
        or (are_ids and ensembl_id(text) is None and not index[i].isdigit())
        else text
        for i, text in enumerate(texts)
    ]


def repeated_cells(source: Source) -> dict[int, str]:
    """Rows whose cell name occurred before, and a name with a number for each: ``{12: 'AAAC-1'}`` for a second AAAC.

    Memory: 16 bytes per cell.
    """
    hashes = np.concatenate(
        [pd.util.hash_array(names.to_numpy(dtype=object), categorize=False) for _, names in _windows(source)]
    )
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return {}
    n_seen: Counter[str] = Counter()
    renamed: dict[int, str] = {}
    for start, names in _windows(source):
        for offset in np.flatnonzero(np.isin(hashes[start : start + len(names)], twice)).tolist():
            name = names[offset]
            if n_seen[name]:
                renamed[start + offset] = f"{name}-{n_seen[name]}"
            n_seen[name] += 1
    return renamed


def _windows(source: Source) -> Iterator[tuple[int, pd.Index]]:
    for start in range(0, source.n_cells, WINDOW):
        yield start, source.obs(start, min(source.n_cells, start + WINDOW), []).index
