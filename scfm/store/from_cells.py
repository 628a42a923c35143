"""A token store from cells in memory: for synthetic cells, tests and converters; files go through ``prepare``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scfm.io import atomic_write
from scfm.store.fields import Field
from scfm.store.layout import StoreMeta, write_layout
from scfm.store.manifest import write_manifest
from scfm.store.token_store import TokenStore
from scfm.store.writer import Cells, PartWriter


def write_store(
    path: str | Path,
    parts: Iterable[Cells],
    *,
    tokenizer: Mapping[str, Any],
    columns: Mapping[str, Sequence[str] | None],
    group: str | None = None,
    files: Sequence[str] = ("cells",),
    fields: Mapping[str, Field] | None = None,
) -> TokenStore:
    """Write a store under a temporary name, rename it, and open it.

    Args:
        path: the directory; it must not exist.
        parts: one Arrow file each.
        tokenizer: ``Tokenizer.to_dict()``; of it only ``vocab`` is read here.
        columns: category names by obs column, None for a column of numbers.
        group: the obs column whose cells stay together in a split.
        files: names of the inputs that ``Cells.file`` counts.
        fields: features of the second modalities that the cells have.

    Raises:
        FileExistsError: ``path`` exists.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another output, or remove it first")
    named = {column: None if names is None else list(names) for column, names in columns.items()}
    described = {kind: field.to_dict() for kind, field in (fields or {}).items()}
    meta = StoreMeta(dict(tokenizer), named, group, [{"name": name} for name in files], fields=described)
    with atomic_write(path) as folder:
        folder.mkdir()
        records = []
        for number, cells in enumerate(parts):
            with PartWriter(folder / f"data-{number:05d}.arrow", folder) as writer:
                writer.write(cells)
                records.append(writer.close())
        write_layout(folder, meta, records)
        write_manifest(folder, records, {})
    return TokenStore.open(path)
