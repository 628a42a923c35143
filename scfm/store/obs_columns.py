"""obs columns of many files as one: one table of categories for the whole corpus, numbers as float32."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scfm.store.layout import OWN_COLUMNS

log = logging.getLogger(__name__)

#: Up to here float32 holds every integer.
EXACT = 1 << 24

#: Words that programs write where a value is missing; they are taken as missing.
MISSING = frozenset({"", "nan", "NaN", "NAN", "None", "<NA>", "NaT"})

#: Words that may mean a missing value and may be a class; they stay, with a warning.
DOUBTFUL = frozenset({"NA", "N/A", "n/a", "na", "null", "NULL", "none", "NONE"})


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

    Numbers that float32 cannot tell apart (identifiers of nine digits) are categories too.

    Args:
        values: the column.
        as_category: take numbers as names of categories (a ``group`` column, clusters).
    """
    if not as_category and _is_number(values) and not _needs_names(values):
        return None
    rows, texts = _factorize(values)
    return sorted(text for text in set(texts[np.unique(rows)]) if isinstance(text, str))


def survey_columns(
    windows: Callable[[], Iterable[pd.DataFrame]], names: Sequence[str], categories: Collection[str], where: str
) -> dict[str, list[str] | None]:
    """The categories of the obs columns of one file, read a window of cells at a time.

    A column without any value is left out: it fits a column of numbers and one of names in another file.

    Args:
        windows: reads the file's obs; called again where a column turns out to need names after its first window.
        names: the columns.
        categories: columns whose numbers are names of categories (a group, clusters).
        where: the file.
    """
    tables: dict[str, list[list[str] | None]] = {name: [] for name in names}
    warned = {name: Counter[str]() for name in names}
    for obs in windows() if names else ():
        for name in names:
            warned[name].update(_missing_words(obs[name]))
            table = survey_column(obs[name], name in categories)
            if name in categories or (table is None and obs[name].notna().any()) or table:
                tables[name].append(table)
    mixed = [name for name, parts in tables.items() if None in parts and any(part is not None for part in parts)]
    for name in mixed:
        tables[name] = [survey_column(obs[name], as_category=True) for obs in windows()]
    for name, words in warned.items():
        _warn_missing_words(where, name, words)
    return merge_columns((where, {name: table}) for name, parts in tables.items() for table in parts)


def merge_columns(
    surveys: Iterable[tuple[str, Mapping[str, Any]]], stored: Mapping[str, Sequence[str] | None] | None = None
) -> dict[str, list[str] | None]:
    """Corpus-wide tables from those of the files.

    Args:
        surveys: (file, {column: categories or None}) for each file; a column that a file lacks is not in its entry.
        stored: tables of the store to which the files are added: its categories keep their codes.

    Raises:
        ValueError: a column holds numbers in one file and names in another.
    """
    merged: dict[str, set[str] | None] = {}
    first: dict[str, str] = {}
    known = [] if stored is None else [("the store", stored)]
    for where, columns in [*known, *surveys]:
        for name, categories in columns.items():
            kind = None if categories is None else set(categories)
            if name not in merged:
                merged[name], first[name] = kind, where
            elif (merged[name] is None) != (kind is None):
                numbers, names = (first[name], where) if merged[name] is None else (where, first[name])
                raise ValueError(_contradiction(name, numbers, names))
            elif kind is not None:
                merged[name] = (merged[name] or set()) | kind
    old = {name: list(names or ()) for name, names in (stored or {}).items()}
    return {
        name: None if kinds is None else [*old.get(name, []), *sorted(kinds.difference(old.get(name, [])))]
        for name, kinds in merged.items()
    }


def warn_of_like_names(columns: Mapping[str, Sequence[str] | None]) -> None:
    """Say so where categories differ by blanks, by case or by the encoding of their letters alone: one class or two?

    Args:
        columns: categories by column, None for numbers.
    """
    for name, categories in columns.items():
        alike: dict[str, list[str]] = {}
        for category in categories or ():
            folded = " ".join(unicodedata.normalize("NFC", category).casefold().split())
            alike.setdefault(folded, []).append(category)
        several = [found for found in alike.values() if len(found) > 1]
        if several:
            log.warning(
                "The obs column %r has classes whose names differ by blanks, case or encoding alone (%s%s): they stay "
                "apart; where they are one, write them alike in the files",
                name, "; ".join(" and ".join(map(repr, found)) for found in several[:5]), ", ..." * (len(several) > 5),
            )  # fmt: skip


def _contradiction(name: str, numbers: str, names: str) -> str:
    text = f"the obs column {name!r} holds numbers in {numbers} but names in {names}"
    if "the store" in (numbers, names):
        return f"{text}; change the column in the new file, or prepare all files into a new store"
    return (
        f"{text} (integers beyond {EXACT:,} count as names); where these numbers are names of classes, let them be "
        f"taken so, as 1 and not 1.0 (categories=[{name}]); else make the files alike"
    )


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
        """{column: int64 codes (-1 = missing) or float32 (NaN = missing)}, (B,) each.

        Raises:
            ValueError: a value that is not among the categories, or no number in a column of numbers.
        """
        return {name: self._code(obs, name, index) for name, index in self._indices.items()}

    def _code(self, obs: pd.DataFrame, name: str, index: pd.Index | None) -> np.ndarray:
        if name not in obs.columns:
            return np.full(len(obs), np.nan, np.float32) if index is None else np.full(len(obs), -1, np.int64)
        values = obs[name]
        if index is None and _is_number(values):
            return values.to_numpy(dtype=np.float32, na_value=np.nan)
        rows, texts = _factorize(values)
        missing = pd.isna(texts)
        if index is None and missing[rows].all():
            return np.full(len(obs), np.nan, np.float32)
        table = np.full(len(texts), -1) if index is None else index.get_indexer(pd.Index(texts, dtype=object))
        codes = table[rows].astype(np.int64)
        unknown = np.flatnonzero((codes < 0) & ~missing[rows])
        if len(unknown):
            raise ValueError(
                f"the obs column {name!r} has {len(unknown)} values that the survey did not see, first "
                f"{texts[rows[unknown[0]]]!r}: the file has changed, prepare it again (overwrite=true)"
            )
        return codes


def _is_number(values: pd.Series) -> bool:
    kind = values.dtype
    return pd.api.types.is_numeric_dtype(kind) and not (
        pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind)
    )


def _needs_names(values: pd.Series) -> bool:
    """Whether all numbers are whole and float32 would change one of them."""
    present = values.dropna().to_numpy(dtype=getattr(values.dtype, "numpy_dtype", None))
    if not len(present) or not np.isfinite(present).all():
        return False
    whole = present.dtype.kind in "iu" or bool((np.rint(present) == present).all())
    if not whole or np.abs(present.astype(np.float64)).max() <= EXACT:
        return False
    return any(int(value) != int(np.float32(value)) for value in present.tolist())


def value_text(value: Any) -> str | None:
    """The text of one value of an obs column, None where it is missing.

    The same value gives the same text in every file, whatever the column's type: whole numbers have no decimal point
    and all their digits (``1``, ``1014900001``), other numbers the fewest digits that tell them apart in their own
    precision. Words that other programs write for a missing value (:data:`MISSING`) are missing.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return None if value.strip() in MISSING else str(value)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value)


def _factorize(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column as rows of a table of texts (:func:`value_text`): (B,) int64 and (K,) object, NaN where missing."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        rows, kinds = values.cat.codes.to_numpy().astype(np.int64), list(values.cat.categories.array)
    elif _is_number(values) or pd.api.types.infer_dtype(values, skipna=True) == "string":
        codes, uniques = pd.factorize(values)
        rows, kinds = codes.astype(np.int64), list(uniques)
    else:  # 1 and True are equal, but not the same text
        rows, kinds = np.arange(len(values)), list(values.array)
    texts = np.full(len(kinds) + 1, np.nan, dtype=object)  # the last entry is that of the code -1
    for i, kind in enumerate(kinds):
        text = value_text(kind)
        texts[i] = np.nan if text is None else text
    return rows, texts


def _missing_words(values: pd.Series) -> Counter[str]:
    """Count the words that mean, or may mean, a missing value."""
    if _is_number(values) or pd.api.types.is_bool_dtype(values.dtype):
        return Counter()
    counted = values.value_counts()
    words = {word: int(n) for word, n in counted.items() if isinstance(word, str) and n}
    return Counter({word: n for word, n in words.items() if word.strip() in MISSING or word.strip() in DOUBTFUL})


def _warn_missing_words(where: str, name: str, words: Mapping[str, int]) -> None:
    taken = {word: n for word, n in words.items() if word.strip() in MISSING}
    doubtful = {word: n for word, n in words.items() if word not in taken}
    for listed, what in (
        (taken, "are taken as missing"),
        (doubtful, "are taken as a class; where they mean a missing value, replace them with NaN in the file"),
    ):
        if listed:
            texts = ", ".join(f"{word!r} ({n} cells)" for word, n in sorted(listed.items()))
            log.warning("%s: in the obs column %r the texts %s %s", where, name, texts, what)
