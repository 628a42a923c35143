"""What a label loses when genes are taken out of a cell, against other genes of the same ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from scfm.analysis.attribution.gradients import CellScore
from scfm.batch import Batch

#: Parts of a cell's ranking inside which genes count as equally expressed.
STRATA = 10


@torch.no_grad()
def deletion_drops(
    score: CellScore,
    batch: Batch,
    gene: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    rng: np.random.Generator,
    n_draws: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Fall of a score when the genes of largest weight are taken out, and when random ones of the same ranks are.

    Args:
        score: of each cell.
        batch: packed cells.
        gene: (T,) bool, which tokens are genes.
        weights: (T,), how much each gene is said to matter.
        sizes: how many genes are taken out.
        rng: draws the random genes.
        n_draws: random sets for each cell and size.

    Returns:
        (B, K) falls for the chosen genes and for the mean of the random ones, K sizes; NaN where a cell would keep no
        gene.
    """
    before = score(batch)
    chosen, control = np.full((2, batch.n_cells, len(sizes)), np.nan)
    cells = _gene_places(batch, gene)
    values = weights.detach().float().cpu().numpy()
    for column, size in enumerate(sizes):
        able = np.array([len(places) > size for places in cells])
        if not able.any():
            continue
        top = [places[np.argsort(-values[places], kind="stable")[:size]] for places in cells]
        chosen[able, column] = _fall(score, batch, before, top)[able]
        draws = [
            _fall(score, batch, before, [alike(p, t, rng) for p, t in zip(cells, top, strict=True)])
            for _ in range(n_draws)
        ]
        control[able, column] = np.mean(draws, axis=0)[able]
    return chosen, control


def alike(places: np.ndarray, top: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many random genes of each tenth of a cell's ranking as ``top`` has there, other ones where there are any.

    Args:
        places: (L,) the cell's genes by rank.
        top: (k,) some of them.
        rng: draws.
    """
    stratum = np.arange(len(places)) * STRATA // max(len(places), 1)
    taken = np.isin(places, top)
    drawn = []
    for part in np.unique(stratum[taken]):
        inside = stratum == part
        wanted = int((inside & taken).sum())
        free, used = places[inside & ~taken], places[inside & taken]
        drawn.append(rng.permutation(free)[:wanted])
        if len(free) < wanted:
            drawn.append(rng.permutation(used)[: wanted - len(free)])
    return np.concatenate([np.empty(0, dtype=np.int64), *drawn])


def _gene_places(batch: Batch, gene: Tensor) -> list[np.ndarray]:
    places = np.arange(batch.n_tokens)
    known, edges = gene.cpu().numpy(), batch.boundaries.tolist()
    return [places[a:b][known[a:b]] for a, b in pairwise(edges)]


def _fall(score: CellScore, batch: Batch, before: Tensor, removed: Sequence[np.ndarray]) -> np.ndarray:
    keep = torch.ones(batch.n_tokens, dtype=torch.bool, device=batch.ids.device)
    gone = np.concatenate([np.empty(0, dtype=np.int64), *removed])
    keep[torch.from_numpy(gone).to(keep.device)] = False
    after = score(batch.select_tokens(keep.nonzero().squeeze(1)))
    return (before - after).cpu().double().numpy()
