"""obs columns of many files as one: one table of categories for the whole corpus, numbers as float32."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scfm.store.layout import OWN_COLUMNS


def require_columns(wanted: Sequence[str], have: Sequence[str], where: str, missing: str) -> list[str]:
    """The wanted obs columns that a file has.

    Args:
        wanted: obs columns.
        have: those of the file.
        where: the file.
        missing: ``refuse`` or ``allow`` columns that are not there.

    Raises:
        ValueError: a column is missing, or has the name of one of the store's own.
    """
    for name in wanted:
        if name in OWN_COLUMNS:
            raise ValueError(f"obs={name!r}: a store has a column of this name of its own; rename yours in obs")
        if name not in have and missing == "refuse":
            raise ValueError(
                f"{where}: obs has no column {name!r}; it has {', '.join(have) or 'none'}. Files of one corpus need "
                "the same columns; missing=allow fills the gaps"
            )
    return [name for name in wanted if name in have]


def survey_column(values: pd.Series, as_category: bool) -> list[str] | None:
    """The sorted categories of a column, or None for a column of numbers.

    Args:
        values: the column.
        as_category: take numbers as names of categories (a ``group`` column).
    """
    if not as_category and _is_number(values):
        return None
    return sorted(set(_texts(values.drop_duplicates()).dropna()))


def merge_columns(
    surveys: Iterable[tuple[str, Mapping[str, Any]]], after: Mapping[str, Sequence[str] | None] | None = None
) -> dict[str, list[str] | None]:
    """Corpus-wide tables from those of the files.

    Args:
        surveys: (file, {column: categories or None}) for each file; a column that a file lacks is not in its entry.
        after: tables of the store to which the files are added: its categories keep their codes.

    Raises:
        ValueError: a column holds numbers in one file and names in another.
    """
    merged: dict[str, set[str] | None] = {}
    first: dict[str, str] = {}
    before = [] if after is None else [("the store", after)]
    for where, columns in [*before, *surveys]:
        for name, categories in columns.items():
            kind = None if categories is None else set(categories)
            if name not in merged:
                merged[name], first[name] = kind, where
            elif (merged[name] is None) != (kind is None):
                numbers, names = (first[name], where) if merged[name] is None else (where, first[name])
                raise ValueError(
                    f"the obs column {name!r} holds numbers in {numbers} but names in {names}; make them alike "
                    f"(adata.obs[{name!r}] = adata.obs[{name!r}].astype(str))"
                )
            elif kind is not None:
                merged[name] = (merged[name] or set()) | kind
    old = {name: list(names or ()) for name, names in (after or {}).items()}
    return {
        name: None if kinds is None else [*old.get(name, []), *sorted(kinds.difference(old.get(name, [])))]
        for name, kinds in merged.items()
    }


class Coder:
    """Turns obs columns into what the store holds.

    Args:
        columns: category names by column, None for numbers.
    """

    def __init__(self, columns: Mapping[str, Sequence[str] | None]) -> None:
        self._indices = {
            name: None if names is None else pd.Index(names, dtype=object) for name, names in columns.items()
        }

    def __call__(self, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        """{column: int64 codes (-1 = missing) or float32 (NaN = missing)}, (B,) each."""
        return {name: self._code(obs, name, index) for name, index in self._indices.items()}

    def _code(self, obs: pd.DataFrame, name: str, index: pd.Index | None) -> np.ndarray:
        if name not in obs.columns:
            return np.full(len(obs), np.nan, np.float32) if index is None else np.full(len(obs), -1, np.int64)
        if index is None:
            return pd.to_numeric(obs[name]).to_numpy(dtype=np.float32, na_value=np.nan)
        values = obs[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            table = index.get_indexer(_texts(pd.Series(values.cat.categories)).to_numpy(dtype=object))
            return np.append(table, -1)[values.cat.codes.to_numpy()].astype(np.int64)
        return index.get_indexer(_texts(values).to_numpy(dtype=object)).astype(np.int64)


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)


def _texts(values: pd.Series) -> pd.Series:
    """Every value as text, missing ones as NaN; whole numbers without a decimal point."""
    present = values.notna().to_numpy()
    if _is_number(values):
        texts = [f"{value:g}" if float(value).is_integer() else repr(value) for value in values[present].tolist()]
    else:
        texts = [str(value) for value in values[present].tolist()]
    result = np.full(len(values), np.nan, dtype=object)
    result[present] = texts
    return pd.Series(result, dtype=object)
