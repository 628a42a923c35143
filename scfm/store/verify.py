"""Check that a store is as it was written: every byte by its checksum, every id by the vocabulary."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scfm.store.arrow import data_files, read_table, token_chunks
from scfm.store.layout import MANIFEST, file_sha256, fingerprint
from scfm.store.manifest import manifest_fault, read_manifest, read_parts
from scfm.store.token_store import TokenStore
from scfm.store.writer import CELLS_PER_BATCH

log = logging.getLogger(__name__)


def verify(path: str | Path) -> list[str]:
    """Read a store from end to end and compare it with its manifest.

    Args:
        path: the store.

    Returns:
        What is wrong, a sentence each; an empty list where nothing is.

    Raises:
        FileNotFoundError: there is no store, or no manifest.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no store at {path}")
    problems = list(_damaged_files(path))
    if not problems:
        problems = list(_foreign_contents(path))
    log.info("%s: %s", path, "; ".join(problems) or "every part is as it was written")
    return problems


def _damaged_files(path: Path) -> Iterator[str]:
    """Find files that are missing, changed or foreign; where the manifest has changed, the others cannot be checked."""
    fault = manifest_fault(path)
    if fault is not None:
        yield fault
        return
    manifest = read_manifest(path)
    expected = {part["name"]: part["sha256"] for part in manifest["parts"]} | manifest["files_sha256"]
    sizes = {part["name"]: part["bytes"] for part in manifest["parts"]}
    for name, checksum in expected.items():
        if not (path / name).is_file():
            yield f"{name} is missing"
        elif name in sizes and (path / name).stat().st_size != sizes[name]:
            size = (path / name).stat().st_size
            yield f"{name} has {size} bytes, {sizes[name]} were written: it was cut short or replaced"
        elif file_sha256(path / name) != checksum:
            yield f"{name} has changed since it was written: its checksum differs"
    for entry in sorted(path.glob("*.arrow")):
        if entry.name not in expected:
            yield f"{entry.name} does not belong to this store"


def _foreign_contents(path: Path) -> Iterator[str]:
    """Find what checksums do not show: a vocabulary, lengths or ids that do not fit, a manifest of another store."""
    try:
        store = TokenStore.open(path)
        _ = store.lengths
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
        return
    records = read_parts(read_manifest(path), path / MANIFEST)
    if fingerprint(records) != store.fingerprint:
        yield f"{MANIFEST} is of another store than scfm.json: their fingerprints differ"
    for file in data_files(path):
        chunks = token_chunks(read_table([file])["input_ids"], file.name)
        largest = max((int(chunk.values.max(initial=0)) for chunk in chunks), default=0)
        if largest >= len(store.vocab):
            yield f"{file.name} holds the id {largest}, outside the vocabulary of {len(store.vocab)} tokens"
    for kind in store.fields:
        try:
            for rows in np.array_split(np.arange(len(store)), max(1, len(store) // CELLS_PER_BATCH)):
                store.field(kind, rows)
        except ValueError as error:
            yield str(error)
