"""Statistics of a corpus's genes in one streaming pass, in bounded memory, mergeable across files and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from scfm.io import atomic_write
from scfm.tokenizer.sketch import Sketch, group_values

#: Values of a corpus up to which its medians are exact.
EXACT_LIMIT = 10_000_000


@njit(nogil=True, cache=True, error_model="numpy")
def _shares(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    columns: np.ndarray,
    totals: np.ndarray,
    dense: np.ndarray,
    genes: np.ndarray,
    values: np.ndarray,
    n_cells: np.ndarray,
    sums: np.ndarray,
) -> int:
    """Genes of each cell and their counts per 10,000, columns of one gene summed; returns the number of values.

    Adds the cells and the counts of each gene to ``n_cells`` and ``sums``. ``dense`` (N,) is zero before and after.
    """
    end = 0
    for row in range(len(indptr) - 1):
        start = end
        for k in range(indptr[row], indptr[row + 1]):
            gene = columns[indices[k]]
            x = np.float64(data[k])
            if gene >= 0 and x > 0:
                if dense[gene] == 0:
                    genes[end] = gene
                    end += 1
                dense[gene] += x
        for k in range(start, end):
            gene = genes[k]
            values[k] = dense[gene] / totals[row] * 10000.0
            n_cells[gene] += 1
            sums[gene] += dense[gene]
            dense[gene] = 0.0
    return end


@njit(nogil=True, cache=True)
def _sorted_medians(values: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
    """(N,) float64, the median of each gene's values, which lie together and are sorted in place; NaN for none."""
    medians = np.full(len(n_cells), np.nan)
    start = 0
    for gene in range(len(n_cells)):
        n = n_cells[gene]
        if n:
            values[start : start + n].sort()
            medians[gene] = (values[start + (n - 1) // 2] + values[start + n // 2]) / 2
        start += n
    return medians


class _Part(NamedTuple):
    """Values and their genes: ``rows`` (n,) of each value, or (runs,) of each run of so many values, ``sizes``."""

    rows: np.ndarray
    values: np.ndarray
    sizes: np.ndarray | None = None


class GeneStatistics:
    """Of each gene: the cells that have it, its counts, and the median of its counts per 10,000 in those cells.

    Medians are exact up to ``exact_limit`` values in the corpus (12 bytes each); beyond, they come from a sketch whose
    relative error is at most 1/256 (:mod:`scfm.tokenizer.sketch`). Neither the order nor the partition of the cells
    changes any of them.

    Args:
        exact_limit: values to keep before the sketch takes over.

    Attributes:
        genes: Ensembl id of each gene, in the order in which they came.
        n_cells: (N,) int64, cells in which the gene is above 0.
        counts: (N,) float64.
        n_total: cells seen.
    """

    def __init__(self, exact_limit: int = EXACT_LIMIT) -> None:
        self.exact_limit = exact_limit
        self.genes: list[str] = []
        self.n_cells = np.empty(0, dtype=np.int64)
        self.counts = np.empty(0)
        self.n_total = 0
        self._index: dict[str, int] = {}
        self._parts: list[_Part] = []
        self._scratch = np.empty(0, dtype=np.int32), np.empty(0)
        self._sketch: Sketch | None = None
        self._last: tuple[Sequence[str | None] | None, np.ndarray] = (None, np.empty(0, dtype=np.int32))

    @property
    def exact(self) -> bool:
        """Whether the medians are exact."""
        return self._sketch is None

    @property
    def n_values(self) -> int:
        """Values counted, one of each gene that a cell has."""
        return int(self.n_cells.sum())

    def _rows(self, genes: Sequence[str | None]) -> np.ndarray:
        """(G,) int32, the gene of each column; room is made for new ones."""
        if self._last[0] is genes:
            return self._last[1]
        index, before = self._index, len(self._index)
        rows = np.array([-1 if gene is None else index.setdefault(gene, len(index)) for gene in genes], dtype=np.int32)
        self.genes.extend(islice(index, before, None))
        new = len(self.genes) - before
        self.n_cells = np.pad(self.n_cells, (0, new))
        self.counts = np.pad(self.counts, (0, new))
        if self._sketch is not None:
            self._sketch.grow(len(self.genes))
        self._last = (genes, rows)
        return rows

    def update(self, counts: csr_matrix, genes: Sequence[str | None], totals: np.ndarray | None = None) -> None:
        """Add some cells.

        Args:
            counts: (B, G) counts.
            genes: (G,) Ensembl id of each column, None to leave it out; give the same list again for the next block of
                a file, and it is looked up once.
            totals: (B,) counts of each cell over all its genes; None adds up its row.

        Raises:
            ValueError: another number of genes than columns, or a total that is not above 0.
        """
        if len(genes) != counts.shape[1]:
            raise ValueError(f"the counts have {counts.shape[1]} columns but {len(genes)} genes are named")
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64) if totals is None else totals, np.float64).ravel()
        if not ((totals > 0) & (totals < np.inf)).all():
            row = int(np.flatnonzero(~((totals > 0) & (totals < np.inf)))[0])
            raise ValueError(
                f"the cell in row {row} has {totals[row]} counts in total; expected a finite number above 0"
            )
        rows = self._rows(genes)
        if len(self._scratch[0]) < counts.nnz:  # kept from block to block: fresh memory costs as much as the counting
            self._scratch = np.empty(counts.nnz, np.int32), np.empty(counts.nnz)
        dense, sums = np.zeros(len(self.genes)), np.zeros(len(self.genes))
        matrix = counts.indptr, counts.indices, counts.data
        n = _shares(*matrix, rows, totals, dense, *self._scratch, self.n_cells, sums)
        self.n_total += counts.shape[0]
        self.counts += sums
        which, values = self._scratch
        self._add(which[:n].copy(), values[:n])

    def _add(self, rows: np.ndarray, values: np.ndarray, sizes: np.ndarray | None = None) -> None:
        """Keep values as they are, or in the sketch where there are too many; ``rows`` and ``sizes`` as it has them."""
        if self._sketch is None and sum(len(part.values) for part in self._parts) + len(values) <= self.exact_limit:
            self._parts.append(_Part(rows, values.copy(), sizes))
            return
        self._to_sketch().add(rows, values, sizes)

    def _to_sketch(self) -> Sketch:
        if self._sketch is None:
            self._sketch = Sketch()
            self._sketch.grow(len(self.genes))
            for rows, values, sizes in self._parts:
                self._sketch.add(rows, values, sizes)
            self._parts = []
        return self._sketch

    def merge(self, other: GeneStatistics) -> None:
        """Add the cells of another part of the corpus; ``other`` stays as it is."""
        rows = self._rows(list(other.genes))
        self.n_total += other.n_total
        self.n_cells[rows] += other.n_cells
        self.counts[rows] += other.counts
        for part, values, sizes in other._parts:
            self._add(rows[part], values, sizes)
        if other._sketch is not None:
            self._to_sketch().merge(other._sketch, rows)

    def medians(self) -> np.ndarray:
        """(N,) float64, median of the gene's counts per 10,000 over the cells that have it; NaN where none has."""
        if self._sketch is not None:
            return self._sketch.medians()
        return _sorted_medians(self._values_by_gene(), self.n_cells)

    def _values_by_gene(self) -> np.ndarray:
        """(n,) float64, the values that are kept, those of one gene together: ``n_cells`` says how many are whose."""
        starts = self.n_cells.cumsum() - self.n_cells
        values = np.empty(self.n_values)
        for rows, part, sizes in self._parts:
            group_values(rows if sizes is None else np.repeat(rows, sizes), part, starts, values)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain arrays by name, enough to go on or to merge elsewhere."""
        exact = {"values": self._values_by_gene()} if self._sketch is None else self._sketch.to_dict()
        return {
            "exact": np.array(self.exact),
            "exact_limit": np.array(self.exact_limit),
            "n_total": np.array(self.n_total),
            "names": np.frombuffer(json.dumps(self.genes).encode(), dtype=np.uint8),
            "n_cells": self.n_cells,
            "counts": self.counts,
            **exact,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> GeneStatistics:
        """The inverse of :meth:`to_dict`; also of its older form, with ``genes``, ``rows`` and ``pages``."""
        new = cls(int(state["exact_limit"]))
        if "names" in state:
            new._rows(json.loads(bytes(state["names"])))
        else:
            new._rows([str(gene) for gene in state["genes"]])
        new.n_total, new.n_cells, new.counts = int(state["n_total"]), state["n_cells"].copy(), state["counts"].copy()
        if not state["exact"]:
            new._sketch = Sketch.from_dict(state)
        elif "rows" in state:
            new._parts = [_Part(state["rows"], state["values"])]
        else:
            new._parts = [_Part(np.arange(len(new.genes), dtype=np.int32), state["values"], new.n_cells)]
        return new

    def save(self, path: str | Path) -> None:
        """Write ``path`` (``.npz``), whole or not at all."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, **self.to_dict())  # zlib would take longer than counting the cells

    @classmethod
    def load(cls, path: str | Path) -> GeneStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there are no gene statistics {path}; expected a file that GeneStatistics.save wrote"
            )
        with np.load(path, allow_pickle=False) as state:
            return cls.from_dict(state)
