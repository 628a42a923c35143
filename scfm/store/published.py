"""What a published dataset of token ids says of itself, as ``scfm.json`` would."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scfm.store.arrow import checked_text, own_file, read_json
from scfm.store.layout import INFO, OWN_COLUMNS


def published_meta(path: Path, table: pa.Table, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Make what ``scfm.json`` would hold, for a published dataset: text and class labels are categories."""
    info = read_json(own_file(path, INFO), "the columns of the dataset") if (path / INFO).exists() else {}
    labels = {
        name: feature["names"]
        for name, feature in (info.get("features") or {}).items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
    columns: dict[str, list[str] | None] = {}
    for name in table.column_names:
        kind = table[name].type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name in OWN_COLUMNS and name != "file":
            continue
        if name in labels:
            columns[name] = labels[name]
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
            columns[name] = _distinct(table[name], f"{path}: {name}")
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[name] = None
    return {"tokenizer": dict(tokenizer), "columns": columns, "group": None, "fingerprint": "", "files": []}


def _distinct(column: pa.ChunkedArray, where: str) -> list[str]:
    return sorted(pc.unique(pc.cast(checked_text(column, where), pa.string())).drop_null().to_pylist())
