"""Statistics of a corpus's genes in one streaming pass, in bounded memory, mergeable across files and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from scfm.io import atomic_write
from scfm.tokenizer.sketch import Sketch


@njit(nogil=True, cache=True, error_model="numpy")
def _shares(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    columns: np.ndarray,
    totals: np.ndarray,
    dense: np.ndarray,
    genes: np.ndarray,
    counts: np.ndarray,
    values: np.ndarray,
) -> int:
    """Counts above 0 and counts per 10,000 of each cell's genes, columns of one gene summed; returns their number."""
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
            counts[k] = dense[genes[k]]
            values[k] = counts[k] / totals[row] * 10000.0
            dense[genes[k]] = 0.0
    return end


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

    def __init__(self, exact_limit: int = 10_000_000) -> None:
        self.exact_limit = exact_limit
        self.genes: list[str] = []
        self.n_cells = np.empty(0, dtype=np.int64)
        self.counts = np.empty(0)
        self.n_total = 0
        self._index: dict[str, int] = {}
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._sketch: Sketch | None = None
        self._last: tuple[Sequence[str | None] | None, np.ndarray] = (None, np.empty(0, dtype=np.int32))

    @property
    def exact(self) -> bool:
        """Whether the medians are exact."""
        return self._sketch is None

    def _rows(self, genes: Sequence[str | None]) -> np.ndarray:
        """(G,) int32, the gene of each column; room is made for new ones."""
        if self._last[0] is genes:
            return self._last[1]
        for gene in genes:
            if gene is not None and gene not in self._index:
                self._index[gene] = len(self.genes)
                self.genes.append(gene)
        new = len(self.genes) - len(self.counts)
        self.n_cells = np.pad(self.n_cells, (0, new))
        self.counts = np.pad(self.counts, (0, new))
        if self._sketch is not None:
            self._sketch.grow(len(self.genes))
        rows = np.array([-1 if gene is None else self._index[gene] for gene in genes], dtype=np.int32)
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
        scratch = np.empty(counts.nnz, np.int32), np.empty(counts.nnz), np.empty(counts.nnz)
        n = _shares(counts.indptr, counts.indices, counts.data, rows, totals, np.zeros(len(self.genes)), *scratch)
        which, x, values = (array[:n] for array in scratch)
        self.n_total += counts.shape[0]
        self.n_cells += np.bincount(which, minlength=len(self.genes))
        self.counts += np.bincount(which, weights=x, minlength=len(self.genes))
        self._add(which, values)

    def _add(self, rows: np.ndarray, values: np.ndarray) -> None:
        if self._sketch is None and sum(len(part) for part, _ in self._parts) + len(rows) <= self.exact_limit:
            self._parts.append((rows.copy(), values.copy()))
            return
        self._to_sketch().add(rows, values)

    def _to_sketch(self) -> Sketch:
        if self._sketch is None:
            self._sketch = Sketch()
            self._sketch.grow(len(self.genes))
            for rows, values in self._parts:
                self._sketch.add(rows, values)
            self._parts = []
        return self._sketch

    def merge(self, other: GeneStatistics) -> None:
        """Add the cells of another part of the corpus; ``other`` stays as it is."""
        rows = self._rows(list(other.genes))
        self.n_total += other.n_total
        self.n_cells[rows] += other.n_cells
        self.counts[rows] += other.counts
        for part, values in other._parts:
            self._add(rows[part], values)
        if other._sketch is not None:
            self._to_sketch().merge(other._sketch, rows)

    def medians(self) -> np.ndarray:
        """(N,) float64, median of the gene's counts per 10,000 over the cells that have it; NaN where none has."""
        if self._sketch is not None:
            return self._sketch.medians()
        medians = np.full(len(self.genes), np.nan)
        if not self._parts:
            return medians
        rows, values = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        values = values[np.lexsort((values, rows))]
        starts = np.concatenate([[0], self.n_cells.cumsum()])[:-1]
        has = self.n_cells > 0
        low, high = (starts + (self.n_cells - 1) // 2)[has], (starts + self.n_cells // 2)[has]
        medians[has] = (values[low] + values[high]) / 2
        return medians

    def to_dict(self) -> dict[str, Any]:
        """Plain arrays by name, enough to go on or to merge elsewhere."""
        rows, values = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True)) if self._parts else (
            np.empty(0, np.int32), np.empty(0))  # fmt: skip
        sketch = self._sketch or Sketch()
        return {
            "exact": np.array(self.exact),
            "exact_limit": np.array(self.exact_limit),
            "n_total": np.array(self.n_total),
            "genes": np.array(self.genes, dtype=np.str_),
            "n_cells": self.n_cells,
            "counts": self.counts,
            "rows": rows,
            "values": values,
            "page_of": sketch.page_of,
            "pages": sketch.pages[: sketch.n_pages],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> GeneStatistics:
        """The inverse of :meth:`to_dict`."""
        new = cls(int(state["exact_limit"]))
        new._rows([str(gene) for gene in state["genes"]])
        new.n_total, new.n_cells, new.counts = int(state["n_total"]), state["n_cells"].copy(), state["counts"].copy()
        if state["exact"]:
            new._parts = [(state["rows"], state["values"])]
        else:
            new._sketch = Sketch(state["page_of"].copy(), state["pages"].copy(), len(state["pages"]))
        return new

    def save(self, path: str | Path) -> None:
        """Write ``path`` (``.npz``), whole or not at all."""
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **self.to_dict())

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
