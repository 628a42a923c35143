"""From store rows to a packed :class:`~scfm.batch.Batch`."""

from collections.abc import Mapping

import numpy as np
import torch

from scfm.batch import Batch
from scfm.store.gather import ranks
from scfm.types import Ragged


def pack(
    cells: Ragged,
    rows: np.ndarray,
    *,
    obs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    counts: np.ndarray | None = None,
) -> Batch:
    """Concatenate the tokens of cells into one row.

    Args:
        cells: the B cells' tokens, none of them empty.
        rows: (B,) for ``Batch.index``.
        obs: labels by name, each (B,).
        seed: see :class:`~scfm.batch.Batch`.
        counts: (T,) float32, the counts behind the tokens.
    """
    assert len(rows) == len(cells), f"{len(cells)} cells but {len(rows)} rows"
    positions, shortest, longest = ranks(cells.offsets)
    assert shortest, "a cell without tokens cannot be packed"
    return Batch(
        ids=torch.from_numpy(cells.values.astype(np.int64, copy=False)),
        positions=torch.from_numpy(positions),
        boundaries=torch.from_numpy(cells.offsets.astype(np.int32)),
        longest=longest,
        index=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        obs={name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in (obs or {}).items()},
        seed=seed,
        token_fields={} if counts is None else {"counts": torch.from_numpy(counts)},
    )
