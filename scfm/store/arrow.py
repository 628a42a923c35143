"""Directories written by ``datasets.save_to_disk``: Arrow stream files, opened as memory maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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
        what: what the file tells, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}, which tells {what}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); it should be the JSON file that tells {what}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; a JSON object that tells {what} was expected")
    return state


def data_files(folder: Path) -> list[Path]:
    """The Arrow files of a ``datasets`` directory, in order.

    Raises:
        FileNotFoundError: no such directory, or one of its files is missing.
        ValueError: the directory holds several splits, or an index beside its rows.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no store at {folder}; make one with scfm-prepare output={folder}")
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(read_json(folder / "dataset_dict.json", "the splits").get("splits", []))
        raise ValueError(f"{folder} holds several splits ({splits}); open one of them, {folder}/SPLIT")
    state = read_json(folder / "state.json", "which Arrow files make the store")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(f"{folder} keeps its order in an index beside the rows; save it after flatten_indices()")
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} lacks its part {file.name}; copy it again, or prepare the store again ({len(files)} parts)"
            )
    return files


def read_table(files: list[Path]) -> pa.Table:
    """All rows as one table of memory-mapped record batches; nothing is copied and no file stays open.

    Raises:
        ValueError: a file is no Arrow stream, is cut short, or has other columns than the first.
    """
    tables = []
    for file in files:
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is damaged: {error}. Copy it again, or prepare the store again") from None
        if not tables[0].schema.equals(tables[-1].schema):
            raise ValueError(f"{file} has other columns than {files[0].name}; the two are of different stores")
    return pa.concat_tables(tables) if tables else pa.table({})


def token_chunks(column: pa.ChunkedArray, where: str, types: Sequence[str] = INTEGERS) -> list[Chunk]:
    """Zero-copy views of a column of lists: token ids, or what stands beside them.

    Args:
        column: the lists.
        where: the store, for messages.
        types: of the values that are accepted.

    Raises:
        ValueError: the column is of another type, or lacks cells (nulls).
    """
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or str(kind.value_type) not in types:
        raise ValueError(f"{where}: input_ids is {kind}; a list of integers ({', '.join(types)}) was expected")
    if column.null_count:
        raise ValueError(f"{where}: {column.null_count} cells have no input_ids; remove them from the dataset")
    width = np.int32 if pa.types.is_list(kind) else np.int64
    return [_chunk(chunk, width) for chunk in column.chunks if len(chunk)]


def _chunk(chunk: pa.Array, width: type) -> Chunk:
    values = chunk.values
    dtype = values.type.to_pandas_dtype()
    numbers = np.frombuffer(values.buffers()[1], dtype=dtype) if len(values) else np.zeros(0, dtype)
    offsets: np.ndarray = np.frombuffer(chunk.buffers()[1], dtype=width)
    own = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
    return Chunk(numbers[values.offset : values.offset + len(values)], own)
