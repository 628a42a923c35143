"""A user's own names for genes."""

from __future__ import annotations

import gzip
from pathlib import Path


def read_alias(path: str | Path) -> dict[str, str]:
    """Read a table of two tab-separated columns: a name, and the Ensembl id or current symbol that it means.

    A first line that is a header is recognized by its second field (``ensembl_id``, ``gene_id``, ``symbol`` or
    ``target``). Empty lines and lines that begin with ``#`` are skipped; ``.gz`` is decompressed.

    Returns:
        UPPER-CASE name -> Ensembl id or symbol.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line without two fields, or a name with two meanings; both name the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no alias table {path}; expected a file of two tab-separated columns")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    alias: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) < 2 or not all(fields[:2]):
            raise ValueError(f"{path}, line {number}: got {line!r}, expected a name, a tab, and the gene it means")
        name, target = fields[0].upper(), fields[1]
        if not alias and target.lower() in {"ensembl_id", "gene_id", "symbol", "target"}:
            continue
        if alias.setdefault(name, target) != target:
            raise ValueError(
                f"{path}, line {number}: {fields[0]!r} means {target!r}, but before it meant {alias[name]!r}"
            )
    return alias
