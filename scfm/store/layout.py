"""The files of a token store beside its Arrow parts, and their content (docs/store.md)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scfm.io import atomic_write, write_text
from scfm.store.arrow import own_file, read_json
from scfm.types import FIELDS, PEAKS, PROTEIN, field_key
from scfm.vocab import Vocab

FORMAT, VERSION = "scfm-store", 1
META, MANIFEST, INFO, STATE = "scfm.json", "manifest.json", "dataset_info.json", "state.json"
REPORT = "report.html"

#: Type of the values of each second modality.
VALUES = {PROTEIN: "float32", PEAKS: "int32"}

#: Columns that every store has; an obs column cannot take their names.
OWN_COLUMNS = ("input_ids", "length", "cell", "file", "hash", "counts", *map(field_key, FIELDS))


@dataclass(frozen=True)
class PartRecord:
    """One finished Arrow file.

    Attributes:
        name: its file name.
        cells, tokens: what it holds.
        largest: the largest token id in it, -1 when it holds none.
        bytes, sha256: its size and checksum.
    """

    name: str
    cells: int
    tokens: int
    largest: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoreMeta:
    """The content of ``scfm.json``.

    Attributes:
        tokenizer: ``Tokenizer.to_dict()``.
        columns: names of the categories by obs column, None for a number.
        group: the obs column whose cells stay together in a split.
        files: the inputs in order, each with ``name`` and its report.
        counts: whether the column ``counts`` is there.
        shuffled: the seed of the shuffling over the whole corpus, None when cells are in the files' order.
        report: the corpus report.
        fields: second modalities by kind, see :class:`scfm.store.fields.Field`.
    """

    tokenizer: dict[str, Any]
    columns: dict[str, list[str] | None]
    group: str | None
    files: list[dict[str, Any]]
    counts: bool = False
    shuffled: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)


def fingerprint(records: Sequence[PartRecord]) -> str:
    """SHA-256 over the checksums of the parts: two stores of equal fingerprint hold the same cells."""
    return hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest()


def json_text(state: Mapping[str, Any]) -> str:
    """A JSON object as the files of a store hold it."""
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def write_json(path: Path, state: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json_text(state))


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write an ``.npz`` file whole or not at all."""
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def write_layout(folder: Path, meta: StoreMeta, records: Sequence[PartRecord]) -> None:
    """Write the three JSON files that turn Arrow parts into a store; the parts lie in ``folder`` already.

    Args:
        folder: the store.
        meta: the content of ``scfm.json``.
        records: the parts, in order; those without cells are left out.
    """
    filled = [record for record in records if record.cells]
    mark = fingerprint(filled)
    state = vars(meta) | {
        "format": FORMAT,
        "version": VERSION,
        "vocab_hash": Vocab.from_dict(meta.tokenizer["vocab"]).hash,
        "n_cells": sum(record.cells for record in filled),
        "n_tokens": sum(record.tokens for record in filled),
        "largest": max((record.largest for record in filled), default=-1),
        "fingerprint": mark,
    }
    write_json(folder / META, state)
    write_json(folder / INFO, _dataset_info(meta))
    write_json(folder / STATE, _dataset_state(filled, mark))


def read_meta(folder: Path) -> dict[str, Any]:
    """``scfm.json`` of a store.

    Raises:
        FileNotFoundError: it is not there: the directory is no store of scfm.
        ValueError: it is damaged, of another program, or of a newer version of the format.
    """
    path = own_file(folder, META)
    state = read_json(path, "the tokenizer of the store")
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{folder / META} is not of a token store (format {state.get('format')!r}, expected {FORMAT!r})"
        )
    version = state.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"{folder} has format version {version}; this scfm reads up to {VERSION}: update scfm-framework"
        )
    wrong = [name for name, fits in _meta_kinds(state).items() if not fits]
    if wrong:
        raise ValueError(
            f"{path} is damaged: {', '.join(wrong)} is missing or of a wrong kind; prepare the cells again"
        )
    return state


def _meta_kinds(state: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each entry of ``scfm.json`` is of the kind that it should be."""
    columns, files = state.get("columns"), state.get("files")
    return {
        **{name: type(state.get(name)) is int for name in ("version", "n_cells", "largest")},
        **{name: isinstance(state.get(name), str) for name in ("fingerprint", "vocab_hash")},
        "tokenizer": isinstance(state.get("tokenizer"), dict) and "vocab" in state["tokenizer"],
        "columns": isinstance(columns, dict) and all(names is None or _are_texts(names) for names in columns.values()),
        "group": state.get("group") is None or isinstance(state["group"], str),
        "files": isinstance(files, list)
        and all(isinstance(file, dict) and isinstance(file.get("name"), str) for file in files),
        "report": isinstance(state.get("report", {}), dict),
        "fields": are_fields(state.get("fields", {})),
    }


def are_fields(values: Any) -> bool:
    """Whether this describes second modalities: names of features by kind, and what is known of their values."""
    return isinstance(values, dict) and all(
        kind in FIELDS
        and isinstance(one, dict)
        and _are_texts(one.get("names"))
        and isinstance(one.get("raw"), bool)
        and (one.get("genome") is None or isinstance(one["genome"], str))
        for kind, one in values.items()
    )


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _dataset_info(meta: StoreMeta) -> dict[str, Any]:
    """``dataset_info.json`` as the library ``datasets`` writes it; categories become its class labels."""
    features: dict[str, Any] = {
        "input_ids": {"feature": _value("uint16"), "_type": "List"},
        "length": _value("int64"),
        "cell": _value("string"),
        "file": {"names": [file["name"] for file in meta.files], "_type": "ClassLabel"},
        "hash": _value("uint64"),
    }
    if meta.counts:
        features["counts"] = {"feature": _value("float32"), "_type": "List"}
    for kind in meta.fields:
        features[field_key(kind)] = {"feature": _value(VALUES[kind]), "_type": "List"}
    for column, names in meta.columns.items():
        features[column] = _value("float32") if names is None else {"names": names, "_type": "ClassLabel"}
    return {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}


def _dataset_state(records: Sequence[PartRecord], mark: str) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": record.name} for record in records],
        "_fingerprint": mark[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
