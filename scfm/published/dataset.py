"""Our token stores as the published tools' ``.dataset``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scfm.io import atomic_write
from scfm.progress import Progress
from scfm.store.layout import STATE, write_json
from scfm.store.token_store import TokenStore

#: Cells of one Arrow file.
SHARD = 100_000


def export_dataset(store: TokenStore, output: str | Path) -> Path:
    """Write a store as Geneformer's extractor, classifier and perturber read it.

    Columns: ``input_ids`` (int32), ``length`` (int64), ``unique_cell_id``, and the obs columns as text, "" where a
    cell has no value. It is written in blocks, so that the store may be larger than memory.

    Args:
        store: the cells.
        output: the folder; its name should end in ``.dataset``.

    Raises:
        FileExistsError: the folder exists.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another output=..., or remove it first")
    obs = {name: store.obs(name) for name in store.columns}
    kinds = {"input_ids": pa.list_(pa.int32()), "length": pa.int64(), "unique_cell_id": pa.string()}
    schema = pa.schema({**kinds, **dict.fromkeys(obs, pa.string())})
    repeated = _repeated_names(store)
    with atomic_write(output) as part, Progress("Writing cells", len(store)) as bar:
        part.mkdir()
        names = []
        for first in range(0, len(store), SHARD):
            rows = np.arange(first, min(first + SHARD, len(store)))
            names.append(f"data-{first // SHARD:05d}.arrow")
            with pa.OSFile(str(part / names[-1]), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for block in np.array_split(rows, max(1, len(rows) // 5000)):
                    writer.write_table(_table(store, block, obs, repeated, schema))
                    bar.advance(len(block))
        info = {"citation": "", "description": "", "features": _features(list(obs)), "homepage": "", "license": ""}
        write_json(part / "dataset_info.json", info)
        write_json(part / STATE, _state(names, store.fingerprint[:16] or "scfm"))
    return output


def _features(columns: list[str]) -> dict[str, Any]:
    """The columns as every release of datasets knows them: 4 has renamed ``Sequence``, and still reads it."""

    def value(dtype: str) -> dict[str, str]:
        return {"dtype": dtype, "_type": "Value"}

    ids = {"feature": value("int32"), "_type": "Sequence"}
    texts = {name: value("string") for name in ("unique_cell_id", *columns)}
    return {"input_ids": ids, "length": value("int64"), **texts}


def _table(
    store: TokenStore, rows: np.ndarray, obs: dict[str, np.ndarray], repeated: frozenset[str], schema: pa.Schema
) -> pa.Table:
    tokens = store.gather(rows)
    ids = pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), pa.array(tokens.values.astype(np.int32)))
    names = [f"{name}-{row}" if name in repeated else name for name, row in zip(store.names(rows), rows, strict=True)]
    columns = {"input_ids": ids, "length": pa.array(tokens.lengths), "unique_cell_id": pa.array(names, pa.string())}
    for column, values in obs.items():
        columns[column] = pa.array(_as_text(store.categories(column), values[rows]), pa.string())
    return pa.table(columns, schema=schema)


def _as_text(names: tuple[str, ...] | None, values: np.ndarray) -> list[str]:
    if names is None:
        return ["" if np.isnan(value) else f"{value:g}" for value in values]
    return ["" if code < 0 else names[code] for code in values]


def _repeated_names(store: TokenStore) -> frozenset[str]:
    """Names that several cells have: their ids get the row, to be unique."""
    counts = Counter(store.names(np.arange(len(store))))
    return frozenset(name for name, n in counts.items() if n > 1)


def _state(names: list[str], fingerprint: str) -> dict[str, object]:
    none = {"_format_columns": None, "_format_type": None, "_split": None}
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_kwargs": {},
        "_output_all_columns": False,
        **none,
    }
