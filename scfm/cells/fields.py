"""A second modality of the cells of a file: surface proteins or chromatin peaks, by cells that have both."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scfm.cells.counts import describe, first_bad, judge
from scfm.cells.feature_types import feature_word
from scfm.cells.protein_names import protein_names
from scfm.cells.source import Matrix, Place, Source, did_you_mean

log = logging.getLogger(__name__)

FieldKind: TypeAlias = Literal["protein", "peaks"]
#: Names of modalities, tables in obsm and feature types that ``auto`` takes, without case and separators.
USUAL: Mapping[str, tuple[str, ...]] = {
    "protein": (
        "prot", "protein", "proteins", "adt", "adts", "proteinexpression", "proteincounts", "antibody", "antibodies",
        "antibodycapture", "surfaceprotein", "ab", "cite", "citeseq",
    ),
    "peaks": ("atac", "peaks", "peak", "atacpeaks", "chromatin", "chromatinaccessibility"),
}  # fmt: skip
_PEAK = re.compile(r"^([^\s:]+?)[:_\-](\d+)[_\-](\d+)$")


@dataclass(frozen=True)
class FieldRequest:
    """Which second modality is wanted, and how it is read.

    Attributes:
        kind: proteins or peaks.
        where: a modality of MuData, a table in obsm or a feature type; ``auto`` takes the first usual name.
        raw: counts are demanded of proteins; False takes any finite values.
        alias: UPPER-CASE name of a protein -> name to use.
        genome: build of the peaks; None takes what var says, if it says so.
    """

    kind: FieldKind
    where: str = "auto"
    raw: bool = True
    alias: Mapping[str, str] = field(default_factory=dict, hash=False)
    genome: str | None = None


class MissingFieldError(ValueError):
    """A file lacks the second modality that is wanted."""


class FieldReader:
    """The second modality of an open file, by rows of its cells.

    Args:
        request: what is read.
        matrix: where the values are.
        label: the place as a user would write it: ``mod['prot']``.
        columns: (F,) columns of the matrix that belong to it.
        names: (F,) their names, unique.
        rows: (n_cells,) row of each cell in the matrix, -1 where the cell lacks the modality; None where the rows are
            those of the genes.
        genome: build of the peaks, None where unknown.

    Attributes:
        names, label, genome: as given.
    """

    def __init__(
        self,
        request: FieldRequest,
        matrix: Matrix,
        label: str,
        columns: np.ndarray,
        names: list[str],
        rows: np.ndarray | None,
        genome: str | None,
    ) -> None:
        self.request, self.label, self.names, self.genome = request, label, names, genome
        self._matrix, self._columns, self._rows = matrix, columns, rows
        known = rows[rows >= 0] if rows is not None else np.arange(matrix.shape[0])
        self._ordered = bool((np.diff(known) > 0).all())
        if not self._ordered:
            log.info("the cells of %s are in another order than the genes': it is held in memory", label)

    def read(self, start: int, stop: int) -> tuple[csr_matrix, np.ndarray]:
        """Cells ``start`` to ``stop`` of the file.

        Returns:
            (B, F) values, 0 in cells without the modality; (B,) bool, which cells have it.

        Raises:
            ValueError: a value that is not allowed, naming cell and feature.
        """
        if self._rows is None:
            return self._checked(self._range(start, stop), start), np.ones(stop - start, dtype=bool)
        rows = self._rows[start:stop]
        present = rows >= 0
        values = csr_matrix((len(rows), len(self.names)), dtype=np.float32)
        if not present.any():
            return values, present
        known = rows[present]
        low = int(known[0]) if self._ordered else 0
        part = self._range(low, int(known[-1]) + 1) if self._ordered else self._whole
        places = np.zeros(len(rows), dtype=np.int64)
        places[present] = known - low
        taken = part[places]
        taken.data = taken.data * np.repeat(present, np.diff(taken.indptr))
        taken.eliminate_zeros()
        return self._checked(taken, start), present

    @cached_property
    def _whole(self) -> csr_matrix:
        return self._range(0, self._matrix.shape[0])

    def _range(self, low: int, high: int) -> csr_matrix:
        block = next(iter(self._matrix.blocks(low, high, max(1, high - low))))
        return block if len(self._columns) == block.shape[1] else block[:, self._columns]

    def _checked(self, values: csr_matrix, start: int) -> csr_matrix:
        """The values, once they are what is expected of them."""
        counted = self.request.kind == "protein" and self.request.raw
        any_sign = self.request.kind == "protein" and not self.request.raw
        bad = first_bad(np.abs(values.data) if any_sign else values.data, whole=counted)
        if bad < 0:
            return values
        row = start + int(np.searchsorted(values.indptr, bad, side="right")) - 1
        name = self.names[values.indices[bad]]
        raise ValueError(_refusal(self.request, self.label, float(values.data[bad]), f"row {row} at {name!r}"))

    def close(self) -> None:
        """Remove temporary files."""
        self._matrix.close()


def open_field(source: Source, place: Place, request: FieldRequest) -> FieldReader:
    """Open the second modality of an open file.

    Args:
        source: the file.
        place: where its gene counts are, which may hold other features too.
        request: what is wanted.

    Raises:
        MissingFieldError: the file has nothing of that name.
        ValueError: it has, and cannot be used: values that are no counts, a name twice, no cell in common.
    """
    found = _find(source, place, request)
    if found is None:
        raise MissingFieldError(_absent(source, place, request))
    where, label, columns = found
    rows = None
    if isinstance(where, Place):
        var, matrix = where.var(), where.matrix()
        _require_values(request, label, matrix)
    else:
        rows = match_cells(source, where, label)
        chosen = _choose(where, label, request)
        var, matrix = chosen[0].var(), chosen[1]
    columns = np.arange(len(var)) if columns is None else columns
    index = [str(name) for name in var.index[columns]]
    if not index:
        raise ValueError(f"its {label} has no features")
    try:
        names = protein_names(index, request.alias) if request.kind == "protein" else peak_names(index)
    except ValueError as error:
        raise ValueError(f"its {label} {error}") from None
    genome = _genome(var.iloc[columns], label, request) if request.kind == "peaks" else None
    return FieldReader(request, matrix, label, columns, names, rows, genome)


def match_cells(source: Source, other: Source, label: str) -> np.ndarray | None:
    """The row in another modality of each cell, -1 where it has none; None where the cells are the same.

    Raises:
        ValueError: a name twice in the other modality, or no cell in common.
    """
    own, theirs = source.obs(0, source.n_cells, []).index, other.obs(0, other.n_cells, []).index
    if own.equals(theirs) and theirs.is_unique:
        return None
    if not theirs.is_unique:
        twice = theirs[theirs.duplicated()][0]
        raise ValueError(f"its {label} has several cells called {twice!r}: cells of two modalities are matched by name")
    rows = theirs.get_indexer(own)
    if not (rows >= 0).any():
        raise ValueError(
            f"its {label} has no cell in common with the genes (cells {theirs[0]!r}, ... and {own[0]!r}, ...): cells "
            "of two modalities are matched by name"
        )
    return rows


def peak_names(names: list[str]) -> list[str]:
    """Names of chromatin peaks as ``chr1:100-600``.

    Raises:
        ValueError: a name that is no interval, or one interval twice.
    """
    found: dict[str, str] = {}
    for name in names:
        parts = _PEAK.match(name)
        if parts is None or int(parts[2]) >= int(parts[3]):
            raise ValueError(f"has the peak {name!r}; expected CHROMOSOME:START-END")
        interval = f"{parts[1]}:{int(parts[2])}-{int(parts[3])}"
        if interval in found:
            raise ValueError(f"has the peak {interval} twice")
        found[interval] = name
    return list(found)


def _find(source: Source, place: Place, request: FieldRequest) -> tuple[Place | Source, str, np.ndarray | None] | None:
    """Where the modality is, what that is called, and which columns are its own."""

    def wanted(name: str) -> bool:
        word = feature_word(name)
        return word in USUAL[request.kind] if request.where == "auto" else word == feature_word(request.where)

    for name, opened in source.modalities.items():
        if wanted(name):
            return opened(), f"mod[{name!r}]", None
    for name, table in source.arrays.items():
        if wanted(name):
            return table, table.label, None
    for name, columns in _feature_types(place).items():
        if wanted(name):
            return place, f"{name!r} features of {place.label}", columns
    return None


def _feature_types(place: Place) -> dict[str, np.ndarray]:
    """Columns of the counts by their feature type; empty where the file does not tell."""
    var = place.var()
    column = next((name for name in var.columns if feature_word(name) in ("featuretypes", "featuretype")), None)
    if column is None:
        return {}
    kinds = var[column].astype(str).to_numpy()
    return {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}


def _absent(source: Source, place: Place, request: FieldRequest) -> str:
    have = [*source.modalities, *source.arrays, *_feature_types(place)]
    if request.where == "auto":
        return f"has no modality, table in obsm or feature type that is usual for {request.kind}; it has " + (
            f"{', '.join(map(repr, have[:12]))}: name one (side.{request.kind}=NAME)" if have else "none at all"
        )
    return f"has no modality, table in obsm or feature type {request.where!r}; {did_you_mean(request.where, have)}"


def _choose(other: Source, label: str, request: FieldRequest) -> tuple[Place, Matrix]:
    """The matrix of another modality: the first place with counts, or X where any values are taken."""
    places = list(other.default) if request.raw and request.kind == "protein" else list(other.default)[-1:]
    if not places:
        raise ValueError(f"its {label} has no X")
    if not len(places[-1].var()):
        raise ValueError(f"its {label} has no features")
    judged = [judge(other, one) for one in places]
    for candidate in judged:
        if candidate.kind == "counts" or not request.raw or request.kind == "peaks":
            return candidate.place, candidate.matrix
    values, rows = judged[-1].matrix.sample(1 << 16)
    bad = first_bad(values, whole=True)
    raise ValueError(_refusal(request, label, float(values[bad]), f"row {int(rows[bad])}"))


def _require_values(request: FieldRequest, label: str, matrix: Matrix) -> None:
    """Refuse, before any work, values that are no counts."""
    if request.raw and request.kind == "protein":
        values, rows = matrix.sample(1 << 16)
        bad = first_bad(values, whole=True)
        if bad >= 0:
            raise ValueError(_refusal(request, label, float(values[bad]), f"row {int(rows[bad])}"))


def _refusal(request: FieldRequest, label: str, value: float, where: str) -> str:
    text = f"its {label} holds {describe(value)} ({value:.4g} in {where})"
    if request.kind == "peaks":
        return f"{text}; peaks are open or not: expected counts, or 0 and 1"
    if not request.raw:
        return f"{text}; expected finite values"
    return f"{text}; expected counts of proteins. Values after CLR, dsb or a logarithm are taken with side.raw=false"


def _genome(var: pd.DataFrame, label: str, request: FieldRequest) -> str | None:
    """The build of the peaks: what the user says, or the one that var names.

    Raises:
        ValueError: var names several, or another one than the user.
    """
    builds = sorted(set(var["genome"].astype(str)) - {"", "nan"}) if "genome" in var.columns else []
    if len(builds) > 1:
        raise ValueError(f"its {label} has peaks of several genome builds ({', '.join(builds)}); expected one")
    if builds and request.genome not in (None, builds[0]):
        raise ValueError(f"its {label} has peaks of the genome build {builds[0]!r}, but side.genome={request.genome!r}")
    return request.genome or (builds[0] if builds else None)
