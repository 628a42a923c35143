"""Rows of a table as AnnData lays it out in HDF5 and zarr (``obs``, ``var``), without reading the whole of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd

log = logging.getLogger(__name__)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Frame:
    """A table on disk.

    Args:
        group: the element; files written before AnnData 0.7 have one compound dataset instead of a group.
        category_groups: groups that may hold the categories of a column X as ``X_categories`` (``uns`` of files
            written before AnnData 0.7), most likely first.

    Attributes:
        columns: names, without the index.
        length: rows.

    Raises:
        ValueError: the columns are of different length.
    """

    def __init__(self, group: Any, category_groups: Sequence[Any] = ()) -> None:
        self.group = group
        self.category_groups = category_groups
        self._categories: dict[str, list[Any] | None] = {}
        self._window = 0, pd.Index([], dtype=object)
        self.compound = hasattr(group, "dtype")
        if self.compound:
            names = list(group.dtype.names or ())
            self.index = "index" if "index" in names else names[0]
            self.columns = [name for name in names if name != self.index]
            self.length = int(group.shape[0])
            return
        self.index = _text(group.attrs.get("_index", "_index"))
        order = group.attrs.get("column-order")
        names = [_text(name) for name in order] if order is not None else sorted(group.keys())
        self.columns = [name for name in names if name not in (self.index, "__categories") and name in group]
        self.length = _length(group[self.index])
        for name in self.columns:
            if _length(group[name]) != self.length:
                raise ValueError(
                    f"the column {name!r} of {group.name} has {_length(group[name])} rows, its index {self.length}"
                )

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows ``start`` to ``stop`` of some columns (None: all); the index holds strings."""
        wanted = self.columns if columns is None else columns
        if self.compound:
            part = self.group[start:stop]
            index = pd.Index([_text(name) for name in part[self.index]], dtype=object)
            values = {name: self._compound(part[name], name) for name in wanted}
        else:
            index = self._read_names(start, stop)
            values = {name: self._column(name, start, stop) for name in wanted}
        return pd.DataFrame(values, index=index, columns=list(wanted))

    def _read_names(self, start: int, stop: int) -> pd.Index:
        """Entries of the index. The last window is kept: a preparation asks three times, and names are slow to read."""
        first, window = self._window
        if not (first <= start and stop <= first + len(window)):
            first, window = start, pd.Index(_names(self.group[self.index], start, stop), dtype=object)
            self._window = first, window
        return window[start - first : stop - first]

    def _column(self, name: str, start: int, stop: int) -> Any:
        element = self.group[name]
        if not hasattr(element, "shape"):
            return _slice(element, start, stop)
        values = _slice(element, start, stop)
        if "categories" in element.attrs:  # AnnData 0.7
            return _categorical(values, _all(self.group[element.attrs["categories"]]), element.name)
        categories = self._old_categories(name, values.dtype)
        if categories is not None:
            return _categorical(values, categories, element.name)
        return values

    def _compound(self, values: np.ndarray, name: str) -> Any:
        categories = self._old_categories(name, values.dtype)
        if categories is not None:
            return _categorical(values, categories, f"{self.group.name}/{name}")
        return [_text(v) for v in values] if values.dtype.kind in "SO" else values

    def _old_categories(self, name: str, dtype: np.dtype) -> list[Any] | None:
        """Categories that lie beside the table for a column of integers, where all of its codes fit them."""
        if dtype.kind not in "iu":
            return None
        if name not in self._categories:
            self._categories[name] = self._find_categories(name)
        return self._categories[name]

    def _find_categories(self, name: str) -> list[Any] | None:
        stored = [group[f"{name}_categories"] for group in self.category_groups if f"{name}_categories" in group]
        stored = [element for element in stored if hasattr(element, "shape")]
        for element in stored:
            categories = _all(element)
            codes = self.group.fields(name)[:] if self.compound else self.group[name][:]
            if codes.max(initial=-1) < len(categories):
                return categories
        if stored or (not self.compound and "__categories" in self.group and name in self.group["__categories"]):
            log.warning(
                "The column %r of %s holds integers, and the category names beside it may not be its own; the integers "
                "are used",
                name,
                self.group.name,
            )
        return None


def _all(element: Any) -> list[Any]:
    """The categories of an old file: texts, or numbers as they are; a single one may be a scalar."""
    return [_text(value) if isinstance(value, str | bytes) else value for value in np.atleast_1d(element[()]).tolist()]


def _categorical(codes: Any, categories: Any, name: str) -> pd.Categorical:
    codes = np.asarray(codes, dtype=np.int64)
    if codes.max(initial=-1) >= len(categories) or codes.min(initial=0) < -1:
        raise ValueError(
            f"the column {name} has the code {codes.max() if codes.max() > 0 else codes.min()}, but its categories "
            f"are {len(categories)}: the file is damaged, or the column was cut without its categories"
        )
    kinds = pd.Index(categories)
    if not kinds.is_unique or kinds.hasnans:
        return pd.Categorical(np.append(kinds.to_numpy(dtype=object), np.nan)[codes])
    return pd.Categorical.from_codes(codes, kinds)


def _names(element: Any, start: int, stop: int) -> Any:
    """Entries of an index as strings."""
    names = _slice(element, start, stop)
    return names if _is_text(element) else [_text(name) for name in names]


def _is_text(element: Any) -> bool:
    return isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype) is not None


def _is_plain(element: Any) -> bool:
    """Whether this is a list of texts or numbers in HDF5, which needs no AnnData to be read."""
    encoding = element.attrs.get("encoding-type", "array")
    listed = isinstance(element, h5py.Dataset) and element.ndim == 1 and encoding in ("array", "string-array")
    return listed and (_is_text(element) or element.dtype.kind in "iufb")


def _length(element: Any) -> int:
    if hasattr(element, "shape"):
        return int(element.shape[0])
    for key in ("codes", "values", "data"):
        if key in element:
            return int(_array(element, key).shape[0])
    return len(_whole(element))


def _array(column: Any, key: str) -> Any:
    """A part of a column that has to be an array.

    Raises:
        ValueError: it is a folder of parts itself.
    """
    part = column[key]
    if not hasattr(part, "shape"):
        raise ValueError(f"its {part.name} is damaged: expected an array, found a group")
    return part


def _slice(element: Any, start: int, stop: int) -> Any:
    """Entries of one column: an array, a categorical or a nullable array of pandas."""
    if hasattr(element, "shape"):
        if element.ndim != 1:
            raise ValueError(f"its {element.name} has {element.ndim} dimensions, expected one value for each row")
        if _is_text(element):
            return element.asstr()[start:stop]
        return element[start:stop]
    encoding = element.attrs.get("encoding-type")
    if encoding == "categorical":
        categories = _whole(element["categories"])
        values = _categorical(_array(element, "codes")[start:stop], categories, element.name)
        return values.as_ordered() if bool(element.attrs.get("ordered", False)) else values
    if encoding in ("nullable-integer", "nullable-boolean"):
        array = pd.arrays.IntegerArray if encoding == "nullable-integer" else pd.arrays.BooleanArray
        return array(_array(element, "values")[start:stop], _array(element, "mask")[start:stop])
    if encoding == "nullable-string-array":
        values = np.asarray(_slice(element["values"], start, stop), dtype=object)
        values[_array(element, "mask")[start:stop]] = None
        return values
    return _whole(element)[start:stop]


def _whole(element: Any) -> Any:
    """An element of any kind that AnnData knows.

    Raises:
        ValueError: it knows none like this, or the element is damaged.
    """
    try:
        if _is_plain(element):
            return element.asstr()[()] if _is_text(element) else element[()]
        from anndata.io import read_elem  # importing anndata takes longer than opening a file

        return read_elem(element)
    except Exception as error:  # AnnData's own class is private and differs between versions
        raise ValueError(f"its {element.name} is of no kind that AnnData can read, or is damaged") from error
