"""Several stores as one, drawn from by weight: ``data=mix``."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scfm.store.fields import Field, empty_column, merge_fields, renumber_column
from scfm.store.layout import OWN_COLUMNS
from scfm.store.obs_columns import merge_columns
from scfm.store.token_store import TokenStore
from scfm.types import FIELDS, field_key

log = logging.getLogger(__name__)


class MixedStore(TokenStore):
    """Stores of one vocabulary, one after the other. Their obs columns are those that all have, with joint categories.

    Args:
        parts: the stores; nothing of their tokens is copied.
        weights: share of each in the training tokens, in any unit; None reads every cell once an epoch.

    Attributes:
        parts: the stores.
        weights: as given.
        sources: (n,) int16, the store of each cell, by its number.

    Raises:
        ValueError: vocabularies that differ, a column of numbers in one store and of names in another, or weights that
            are not one positive number for each store.
    """

    def __init__(self, parts: Sequence[TokenStore], weights: Sequence[float] | None = None) -> None:
        if not parts:
            raise ValueError("store.paths is empty; name the stores to mix, as store.paths='[stores/a,stores/b]'")
        if weights is not None and (len(weights) != len(parts) or min(weights) <= 0):
            raise ValueError(
                f"store.weights={list(weights)} for {len(parts)} stores: expected one number above 0 for each"
            )
        for other in parts[1:]:
            _require_alike(parts[0], other)
        self.parts, self.weights = tuple(parts), None if weights is None else tuple(weights)
        columns = _joint_columns(parts)
        files = [{**file, "name": f"{part.path}/{file['name']}"} for part in parts for file in part.files]
        counts = ["counts"] if all(part.has_counts for part in parts) else []
        fields = _joint_fields(parts)
        names = ["input_ids", "length", "cell", "file", "hash", *counts, *map(field_key, fields), *columns]
        tables = [
            _table(part, names, columns, fields, first) for part, first in zip(parts, _first_files(parts), strict=True)
        ]
        marks = "".join(part.fingerprint for part in parts) + str(self.weights)
        meta: dict[str, Any] = {
            "tokenizer": parts[0].tokenizer,
            "columns": columns,
            "group": _joint_group(parts),
            "fingerprint": hashlib.sha256(marks.encode()).hexdigest(),
            "files": files,
            "fields": {kind: joint.to_dict() for kind, joint in fields.items()},
        }
        super().__init__(Path(" + ".join(str(part.path) for part in parts)), pa.concat_tables(tables), meta)
        self.sources = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part) for part in parts])

    @property
    def shuffled(self) -> bool:
        """Whether every store was written shuffled."""
        return all(part.shuffled for part in self.parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return MixedStore, (self.parts, self.weights)


def open_mix(*, paths: list[str], weights: list[float] | None = None) -> MixedStore:
    """Open stores to draw from by weight.

    Args:
        paths: the stores, made by ``scfm-prepare``.
        weights: share of each in the training tokens, in any unit; null reads every cell once an epoch.

    Raises:
        FileNotFoundError, ValueError: see :meth:`TokenStore.open` and :class:`MixedStore`.
    """
    return MixedStore([TokenStore.open(path) for path in paths], weights)


def _require_alike(one: TokenStore, other: TokenStore) -> None:
    """Refuse stores of different vocabularies; warn where the tokenizers differ in something else."""
    one.vocab.require_same(other.vocab, f"the store {one.path}", f"the store {other.path}")
    keys = one.tokenizer.keys() | other.tokenizer.keys()
    differ = sorted(key for key in keys - {"alias"} if one.tokenizer.get(key) != other.tokenizer.get(key))
    if differ:
        log.warning(
            "The stores %s and %s have the same vocabulary, but their tokenizers differ in %s: a cell would be ranked "
            "differently in each.",
            one.path,
            other.path,
            ", ".join(differ),
        )


def _joint_columns(parts: Sequence[TokenStore]) -> dict[str, list[str] | None]:
    """The columns of all stores: the first one's categories, then those that others add."""
    shared = [name for name in parts[0].columns if all(name in part.columns for part in parts)]
    left_out = sorted({name for part in parts for name in part.columns}.difference(shared))
    if left_out:
        log.info("Not all stores of the mix have the obs columns %s; they are left out.", ", ".join(left_out))
    tables = [(str(part.path), {name: part.categories(name) for name in shared}) for part in parts]
    return merge_columns(tables[1:], stored=tables[0][1])


def _joint_group(parts: Sequence[TokenStore]) -> str | None:
    """The column whose cells stay together, where the stores agree on one."""
    groups = list(dict.fromkeys(part.group for part in parts))
    if len(groups) > 1:
        log.warning(
            "The stores keep different groups together (%s); name a column that all have with data.group=COLUMN.",
            ", ".join(map(str, groups)),
        )
        return None
    return groups[0]


def _first_files(parts: Sequence[TokenStore]) -> np.ndarray:
    """The number of each store's first file among all."""
    return np.cumsum([0, *(len(part.files) for part in parts)])[:-1]


def _joint_fields(parts: Sequence[TokenStore]) -> dict[str, Field]:
    """The second modalities that any store keeps: the features of the first, then those that others add."""
    kinds = [kind for kind in FIELDS if any(kind in part.fields for part in parts)]
    return {
        kind: merge_fields(kind, [(str(part.path), part.fields[kind]) for part in parts if kind in part.fields])
        for kind in kinds
    }


def _field_column(part: TokenStore, kind: str, joint: Field) -> pa.ChunkedArray:
    """A second modality with the numbers of the mix; empty where the store keeps none."""
    if kind not in part.fields:
        return empty_column(kind, len(part))
    place = {name: number for number, name in enumerate(joint.names)}
    numbers = np.array([place[name] for name in part.fields[kind].names], dtype=np.int64)
    return renumber_column(part.column(field_key(kind)), kind, numbers, len(joint.names))


def _table(
    part: TokenStore,
    names: Sequence[str],
    columns: dict[str, list[str] | None],
    fields: Mapping[str, Field],
    first: int,
) -> pa.Table:
    """The rows of a store with the codes of the mix; a column whose codes are the same already is not copied."""
    arrays = {field_key(kind): _field_column(part, kind, joint) for kind, joint in fields.items()}
    for name in names:
        if name in arrays:
            continue
        arrays[name] = part.column(name)
        if name == "file" and first:
            arrays[name] = pa.chunked_array([part.obs(name) + first])
        elif name not in OWN_COLUMNS:
            own, joint = part.categories(name), columns[name]
            if own is not None and joint is not None and list(own) != joint[: len(own)]:
                codes = np.array([*map(joint.index, own), -1], dtype=np.int64)
                arrays[name] = pa.chunked_array([codes[part.obs(name)]])
    return pa.table({name: arrays[name] for name in names})
