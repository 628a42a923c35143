"""A second modality of the cells, stored beside their tokens: surface proteins, chromatin peaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scfm.cells.fields import FieldKind, FieldReader, FieldRequest, MissingFieldError
from scfm.cells.file import CellFile
from scfm.cells.protein_names import is_isotype
from scfm.preparation.worker import WorkerState
from scfm.store.fields import Field, merge_fields
from scfm.store.file_field import FileField
from scfm.types import FIELDS, PEAKS, PROTEIN, Ragged

#: Cells that are read at once.
WINDOW = 4096


@dataclass(frozen=True)
class Side:
    """Which second modalities are kept.

    Attributes:
        protein: where the proteins are: a modality of .h5mu, a table in obsm or a feature type; ``auto`` finds it; None
            keeps none.
        peaks: the same of chromatin peaks, which are kept as open or not.
        raw: False also takes proteins that are no counts (CLR, dsb).
        alias: path of a table with a protein's name and the name to use on each line.
        genome: build of the peaks, such as hg38; None takes what the file says.
        min_cells: a peak is kept if it is open in at least this share of a file's cells.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    protein: str | None = None
    peaks: str | None = None
    raw: bool = True
    alias: str | None = None
    genome: str | None = None
    min_cells: float = 0.005

    def __post_init__(self) -> None:
        if not 0 <= self.min_cells <= 1:
            raise ValueError(f"side.min_cells={self.min_cells} is a share of cells, from 0 to 1")

    def to_options(self) -> dict[str, Any] | None:
        """Plain values with the names in place of their file; None where nothing is kept."""
        if self.protein is None and self.peaks is None:
            return None
        return asdict(self) | {"alias": {} if self.alias is None else read_protein_alias(Path(self.alias))}


def read_protein_alias(path: Path) -> dict[str, str]:
    """A table of two tab-separated columns: the name of a protein in a panel, and the name to use.

    Returns:
        UPPER-CASE name -> name to use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line without two fields, or a name with two meanings.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table of proteins {path} (side.alias)")
    alias: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}, line {number}: got {line!r}, expected a name, a tab, and the name to use")
        if alias.setdefault(parts[0].upper(), parts[1]) != parts[1]:
            raise ValueError(
                f"{path}, line {number}: {parts[0]!r} means {parts[1]!r}, but before {alias[parts[0].upper()]!r}"
            )
    return alias


def requested_fields(options: Mapping[str, Any]) -> list[FieldRequest]:
    """What the options of a run ask for."""
    side = options.get("side")
    kinds: list[FieldKind] = ["protein", "peaks"]
    return [
        FieldRequest(kind, side[kind], side["raw"], side["alias"], side["genome"])
        for kind in kinds
        if side is not None and side[kind] is not None
    ]


def survey_fields(cells: CellFile, options: Mapping[str, Any], n_cells: int) -> dict[str, dict[str, Any]]:
    """The record of each second modality of a file: its features, where they are, how many cells have them.

    Args:
        cells: the open file.
        options: of the run.
        n_cells: cells of the file that are prepared.

    Raises:
        ValueError: the file lacks one and ``missing=refuse``, or it cannot be used.
    """
    records: dict[str, dict[str, Any]] = {}
    for request in requested_fields(options):
        try:
            reader = cells.open_field(request)
        except MissingFieldError as error:
            if options["missing"] == "refuse":
                raise ValueError(f"{error}. missing=allow takes such files without it") from None
            continue
        opened, present = _count_open(reader, n_cells)
        names = reader.names
        if request.kind == PEAKS:
            least = max(1.0, options["side"]["min_cells"] * present)
            names = [name for name, n in zip(names, opened, strict=True) if n >= least]
            if not names:
                raise ValueError(
                    f"{cells.path}: no peak of its {reader.label} is open in {options['side']['min_cells']:.2%} of its "
                    "cells; lower side.min_cells"
                )
        records[request.kind] = {
            "names": names,
            "raw": request.raw or request.kind == PEAKS,
            "genome": reader.genome,
            "from": reader.label,
            "features": len(reader.names),
            "cells": present,
        }
    return records


def _count_open(reader: FieldReader, n_cells: int) -> tuple[np.ndarray, int]:
    """(F,) cells in which each feature is above 0, and cells that have the modality; every value is checked."""
    opened, present = np.zeros(len(reader.names), dtype=np.int64), 0
    for start in range(0, n_cells, WINDOW):
        values, known = reader.read(start, min(start + WINDOW, n_cells))
        opened += np.bincount(values.indices[values.data > 0], minlength=len(opened))
        present += int(known.sum())
    return opened, present


def join_fields(
    surveys: Iterator[tuple[str, Mapping[str, Any]]], before: Mapping[str, Field]
) -> dict[str, dict[str, Any]]:
    """The features of all files, those of the store that is added to first.

    Args:
        surveys: (file, its records by kind).
        before: features of the store that is added to.

    Raises:
        ValueError: values or genome builds of two files do not go together.
    """
    parts: dict[str, list[tuple[str, Field]]] = {
        kind: [("the store", before[kind])] if kind in before else [] for kind in FIELDS
    }
    for where, records in surveys:
        for kind, record in records.items():
            parts[kind].append((where, Field.from_dict(record)))
    return {kind: merge_fields(kind, found).to_dict() for kind, found in parts.items() if found}


class FieldEncoder:
    """Second modalities of the cells of one file, as a store keeps them.

    Args:
        run: the run.
        cells: the file, open.
    """

    def __init__(self, run: WorkerState, cells: CellFile) -> None:
        readers: dict[str, FieldReader] = {}
        for request in requested_fields(run.options):
            with suppress(MissingFieldError):  # the survey has allowed it
                readers[request.kind] = cells.open_field(request)
        self._fields = {
            kind: FileField(readers.get(kind), kind, state["names"])
            for kind, state in run.corpus.get("fields", {}).items()
        }

    def __call__(self, start: int, rows: np.ndarray) -> dict[str, Ragged]:
        """The modalities of some cells, see :meth:`scfm.store.file_field.FileField.rows`."""
        return {kind: field.rows(start, rows) for kind, field in self._fields.items()}


def describe_fields(survey: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the record of a file says of its second modalities, for the report."""
    return {
        kind: {
            "from": record["from"],
            "features": record["features"],
            "kept": len(record["names"]),
            "isotypes": [name for name in record["names"] if kind == PROTEIN and is_isotype(name)],
            "cells": record["cells"],
        }
        for kind, record in survey.get("fields", {}).items()
    }
