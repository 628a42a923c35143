"""Edges of a graph of cells, drawn at random by weight."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from scfm.head.survey import build_row_table, lookup_rows


class Edges:
    """Draws neighbors with probabilities proportional to the weight of their edge.

    Args:
        graph: (n, n) weights between the training cells.
        rows: (n,) their rows in the store.
    """

    def __init__(self, graph: csr_matrix, rows: np.ndarray) -> None:
        self.place = torch.from_numpy(build_row_table(rows, np.arange(len(rows))))
        self.neighbors = torch.from_numpy(graph.indices.astype(np.int64))
        self.sums = torch.from_numpy(np.concatenate([[0.0], np.cumsum(graph.data, dtype=np.float64)]))
        self.offsets = torch.from_numpy(graph.indptr.astype(np.int64))

    def draw(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One neighbor of each cell that is in the graph.

        Args:
            index: (B,) store rows.
            generator: on the CPU.

        Returns:
            (N,) places in ``index``, (N,) places of the neighbors among the training cells, (N,) float32 Σ_j w_ij.
        """
        place = lookup_rows(self.place, index)
        start, stop = self.offsets[place.clamp(min=0)], self.offsets[place.clamp(min=0) + 1]
        total = self.sums[stop] - self.sums[start]
        cells = ((place >= 0) & (total > 0)).nonzero().squeeze(1)
        start, stop, total = start[cells], stop[cells], total[cells]
        mark = self.sums[start] + torch.rand(len(cells), generator=generator, dtype=torch.float64) * total
        edge = torch.searchsorted(self.sums, mark, right=True) - 1
        return cells, self.neighbors[edge.clamp(start, stop - 1)], total.float()
