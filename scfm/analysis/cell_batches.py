"""Some cells of a file as packed batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from scfm.analysis.base import Work
from scfm.batch import Batch
from scfm.inference.cell_input import CellInput


def select_batches(cells: CellInput, rows: np.ndarray, work: Work, device: torch.device) -> Iterator[Batch]:
    """The wanted cells as the model reads them, those of a batch together; cells without tokens are left out.

    Args:
        cells: open cells.
        rows: of the file.
        work: says how many tokens a batch has.
        device: where batches are sent.
    """
    wanted = torch.from_numpy(rows)
    tokens, size = work.settings.tokens_per_batch, work.settings.block_size
    for batch in cells.batches(tokens=tokens, block_size=size, part_size=max(cells.cells.n_cells, 1)):
        inside = torch.isin(batch.index, wanted)
        if inside.any():
            yield batch.select_cells(inside).to(device)
