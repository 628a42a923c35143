"""The tables that know cells without a transformer, beside the model in every validation."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.objective.cluster_table import ClusterTable
from scfm.objective.neighbor_table import NeighborTable
from scfm.types import Metrics, Spec


class Tables(nn.Module):
    """Each table that the run has the training cells for; none is trained or saved.

    Args:
        possible: (V,) bool, the tokens that can be a target.
        spec: its ``cluster_counts``, ``reference_cells`` and ``token_counts``, each None where unknown.
    """

    def __init__(self, possible: np.ndarray, spec: Spec) -> None:
        super().__init__()
        self.tables = nn.ModuleDict()
        if spec.cluster_counts is not None:
            self.tables["clusters"] = ClusterTable(possible, spec.cluster_counts)
        if spec.reference_cells is not None and spec.token_counts is not None:
            self.tables["neighbors"] = NeighborTable(possible, spec.reference_cells, spec.token_counts)

    def forward(self, batch: Batch, visible: Tensor, places: Tensor, targets: Tensor, *, prefix: bool) -> Metrics:
        """``NAME_loss`` of each table, summed over the targets, see :class:`ClusterTable`."""
        call = {"prefix": prefix}
        return {f"{name}_loss": table(batch, visible, places, targets, **call) for name, table in self.tables.items()}
