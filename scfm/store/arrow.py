"""Directories written by ``datasets.save_to_disk``: Arrow stream files, opened as memory maps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scfm.store.buffers import require_small_buffers

INTEGERS = ("int16", "uint16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True)
class Chunk:
    """The token lists of one record batch, as views into its memory map.

    Attributes:
        values: every token of the batch, one cell after the other.
        offsets: (cells+1,) int32 or int64; cell ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        path: the file.
        what: the content of the file, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}, which tells {what}") from None
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of too many digits, or nested too deep
        raise ValueError(f"{path} is damaged ({error}); it should be the JSON file that tells {what}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; a JSON object that tells {what} was expected")
    return state


def _refuse_constant(name: str) -> None:
    """NaN and Infinity, which Python's JSON reads and no store writes."""
    raise ValueError(f"{name} is no JSON")


def own_file(folder: Path, name: Any) -> Path:
    """A file that a store names, which has to lie in the store itself.

    Args:
        folder: the store.
        name: what one of its JSON files says.

    Raises:
        ValueError: it is no bare file name, or a link to a file elsewhere.
    """
    bare = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not bare:
        raise ValueError(f"{folder} names the part {name!r}, which is not safe; expected a file name without a folder")
    path = folder / name
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise ValueError(f"{path} is a link to {path.resolve()}, outside the store: copy that file in its place")
    return path


def data_files(folder: Path) -> list[Path]:
    """The Arrow files of a ``datasets`` directory, in order.

    Raises:
        FileNotFoundError: no such directory, or one of its files is missing.
        ValueError: the directory holds several splits, an index beside its rows, or names files outside itself.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no store at {folder}; make one with scfm-prepare output={folder}")
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(map(str, read_json(folder / "dataset_dict.json", "the splits").get("splits") or ()))
        raise ValueError(f"{folder} holds several splits ({splits}); open one of them, {folder}/SPLIT")
    state = read_json(own_file(folder, "state.json"), "which Arrow files make the store")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(f"{folder} keeps its order in an index beside the rows; save it after flatten_indices()")
    entries = state.get("_data_files") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{folder / 'state.json'} is damaged: it does not list the Arrow files of the store")
    files = [own_file(folder, entry.get("filename")) for entry in entries]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} lacks its part {file.name}; copy it again, or prepare the store again ({len(files)} parts)"
            )
    return files


def read_table(files: list[Path]) -> pa.Table:
    """All rows as one table of memory-mapped record batches; nothing is copied and no file stays open.

    The sizes of all buffers fit the numbers of rows; offsets into the values are checked where they are used.

    Raises:
        ValueError: a file is no Arrow stream, is cut short, contradicts itself, or has other columns than the first.
    """
    tables = []
    for file in files:
        try:
            require_small_buffers(file)
            with pa.memory_map(os.fsencode(file)) as source, pa.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
                tables[-1].validate()
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ValueError(f"{file} is damaged: {error}. Copy it again, or prepare the store again") from None
        if not tables[0].schema.equals(tables[-1].schema):
            raise ValueError(f"{file} has other columns than {files[0].name}; the two are of different stores")
    return pa.concat_tables(tables) if tables else pa.table({})


def token_chunks(column: pa.ChunkedArray, where: str, types: Sequence[str] = INTEGERS) -> list[Chunk]:
    """Zero-copy views of a column of lists: token ids, or the values beside them.

    Args:
        column: the lists.
        where: the store, for messages.
        types: accepted types of the values.

    Raises:
        ValueError: the column is of another type, lacks cells (nulls), or has lists outside its values.
    """
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or str(kind.value_type) not in types:
        raise ValueError(f"{where}: input_ids is {kind}; a list of integers ({', '.join(types)}) was expected")
    if column.null_count:
        raise ValueError(f"{where}: {column.null_count} cells have no input_ids; remove them from the dataset")
    width = np.int32 if pa.types.is_list(kind) else np.int64
    return [_chunk(chunk, width, where) for chunk in column.chunks if len(chunk)]


def _chunk(chunk: pa.Array, width: type, where: str) -> Chunk:
    values = chunk.values
    dtype = values.type.to_pandas_dtype()
    stop = values.offset + len(values)
    numbers = np.frombuffer(values.buffers()[1], dtype=dtype, count=stop) if len(values) else np.zeros(0, dtype)
    own = _offsets(chunk, width)
    if own[0] < 0 or own[-1] > len(values) or (own[1:] < own[:-1]).any():
        raise ValueError(f"{where} is damaged: its lists lie outside their {len(values)} values. Copy it again")
    if values.null_count:
        raise ValueError(f"{where} is damaged: {values.null_count} values of its lists are missing. Copy it again")
    return Chunk(numbers[values.offset : stop], own)


def _offsets(chunk: pa.Array, width: type) -> np.ndarray:
    """(n+1,) where each of ``n`` entries of variable length begins."""
    stop = chunk.offset + len(chunk) + 1
    offsets: np.ndarray = np.frombuffer(chunk.buffers()[1], dtype=width, count=stop)
    return offsets[chunk.offset :]


def checked_text(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """The same column, once its offsets are known to stay inside its own bytes.

    Raises:
        ValueError: it does not.
    """
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"{where} is damaged: {error}. Copy it again, or prepare the store again") from None
    return column
