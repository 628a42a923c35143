"""Log-normalized expression of chosen genes of a file, whether or not a model knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csr_matrix

from scfm.genes.resolve import resolve
from scfm.inference.cell_input import CellInput


@dataclass(frozen=True)
class GeneValues:
    """Expression of some cells.

    Attributes:
        rows: (n,) rows of the file, ascending.
        values: (n, G) float32, log(1 + 10 000 x / total) with the total over all genes of the file.
        overall: mean of these values over all genes of the file.
    """

    rows: np.ndarray
    values: csr_matrix
    overall: float

    def select(self, rows: np.ndarray) -> csr_matrix:
        """Values of some of the rows."""
        return self.values[np.searchsorted(self.rows, rows)]


def gene_columns(given: CellInput, names: Sequence[str]) -> list[list[int]]:
    """Columns of the file that are each gene, by Ensembl id, or by name where a name is unknown.

    Args:
        given: open cells.
        names: genes, symbols or Ensembl ids, of the species of the cells.

    Returns:
        For each name its columns; none where the file lacks the gene.
    """
    species = given.reading.species
    places: dict[str, list[int]] = {}
    resolved = resolve(given.cells.genes, species=species)
    for column, (name, gene) in enumerate(zip(given.cells.genes, resolved, strict=True)):
        places.setdefault(gene or name.upper(), []).append(column)
    wanted = resolve(list(names), species=species)
    return [places.get(gene or name.upper(), []) for name, gene in zip(names, wanted, strict=True)]


def read_values(
    given: CellInput, rows: np.ndarray, columns: Sequence[Sequence[int]], block_size: int = 1024
) -> GeneValues:
    """Read genes of some cells.

    Args:
        given: open cells with counts.
        rows: (n,) rows of the file, ascending.
        columns: columns of each gene; those of one gene are summed.
        block_size: cells read at once.
    """
    genes = np.repeat(np.arange(len(columns)), [len(own) for own in columns])
    flat = np.array([column for own in columns for column in own], dtype=np.int64)
    pick = csr_matrix((np.ones(len(flat)), (flat, genes)), shape=(len(given.cells.genes), len(columns)))
    parts, total = [], 0.0
    for block in given.cells.blocks(size=block_size, columns=[]):
        inside = rows[(rows >= block.start) & (rows < block.start + block.counts.shape[0])] - block.start
        if not len(inside):
            continue
        counts = csr_matrix(block.counts[inside], dtype=np.float64)
        depth = np.asarray(counts.sum(axis=1)).ravel()
        scale = sparse.diags(np.divide(1e4, depth, out=np.zeros_like(depth), where=depth > 0))
        total += (scale @ counts).log1p().sum()
        parts.append(csr_matrix((scale @ (counts @ pick)).log1p(), dtype=np.float32))
    values = csr_matrix(sparse.vstack(parts)) if parts else csr_matrix((0, len(columns)), dtype=np.float32)
    return GeneValues(rows, values, float(total / max(len(rows) * len(given.cells.genes), 1)))
