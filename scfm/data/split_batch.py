"""A batch that is too large for memory, worked off in parts."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scfm.types import Batch, Metrics


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch between cells.

    Args:
        batch: packed cells.
        parts: how many are wanted; never more than there are cells.

    Returns:
        Batches with the same cells in the same order. Each has a seed of its own that follows from the batch's.
    """
    parts = min(parts, batch.n_cells)
    edges = [round(i * batch.n_cells / parts) for i in range(parts + 1)]
    offsets = batch.boundaries.tolist()
    cut = []
    for number, (first, last) in enumerate(pairwise(edges)):
        begin, end = offsets[first], offsets[last]
        boundaries = batch.boundaries[first : last + 1] - begin
        cut.append(
            replace(
                batch,
                ids=batch.ids[begin:end],
                positions=batch.positions[begin:end],
                boundaries=boundaries,
                longest=int(boundaries.diff().max()),
                index=batch.index[first:last],
                obs={name: values[first:last] for name, values in batch.obs.items()},
                seed=(batch.seed + number) % 2**63,
            )
        )
    return cut


def metrics_in_parts(task: Callable[[Batch], Metrics], batch: Batch, parts: int) -> Metrics:
    """What a task says of a batch, holding the activations of one part at a time.

    They are computed again in the backward pass: a third more work, for a memory that falls with the parts.

    Args:
        task: batch -> ``loss``, other means, and ``n_targets`` where they are not means over cells.
        batch: packed cells.
        parts: how many parts.
    """

    def run(part: Batch) -> Metrics:
        torch.manual_seed(part.seed)
        return task(part)

    pieces = split(batch, parts)
    if len(pieces) == 1:
        return run(batch)
    found = [checkpoint(run, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    sizes = [part.get("n_targets", torch.tensor(piece.n_cells)) for part, piece in zip(found, pieces, strict=True)]
    total: Tensor = torch.stack([size.to(batch.ids.device) for size in sizes]).sum()
    means = {
        name: sum(part[name] * size for part, size in zip(found, sizes, strict=True)) / total.clamp(min=1)
        for name in found[0]
        if name != "n_targets"
    }
    return means | {"n_targets": total}
