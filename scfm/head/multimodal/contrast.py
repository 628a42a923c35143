"""Cells of two modalities in one space: where they begin, and the contrast that draws pairs together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.head.blocks import Fold, make_folds
from scfm.metrics.modality.alignment import foscttm

#: Shrinkages that are tried.
SHRINKAGES = (0.03, 0.1, 0.3, 1.0)
#: Columns are chosen with this one.
MIDDLE = 0.3
#: Numbers of first columns of a block that are tried.
FIRST = (30, 15)


def canonical_directions(
    one: np.ndarray, other: np.ndarray, n: int, shrinkage: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regularized canonical correlation (Hotelling 1936; Vinod 1976).

    Args:
        one: (n_cells, D) of the first modality.
        other: (n_cells, E) of the second one.
        n: directions, at most.
        shrinkage: added to the diagonal of both covariances, in units of their mean.

    Returns:
        Directions (D, k) and (E, k), and correlations (k,), the largest first; directions are weighted by them, so that
        those that the modalities do not share do not count.
    """
    x, y = one - one.mean(axis=0), other - other.mean(axis=0)
    white_x, white_y = (_whitener(part.T @ part / len(part), shrinkage) for part in (x, y))
    left, correlations, right = np.linalg.svd(white_x @ (x.T @ y / len(x)) @ white_y.T, full_matrices=False)
    k = min(n, len(correlations))
    weights = correlations[:k].clip(0, 1)
    return white_x.T @ left[:, :k] * weights, white_y.T @ right[:k].T * weights, weights


def choose_start(
    one: np.ndarray, other: np.ndarray, blocks: Sequence[int], n: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """What of the first modality is read at the start, and the shrinkage: the best FOSCTTM of held-out cells.

    The backbone's block is read whole or not at all, another also to its first 30 or 15 columns: components come by
    their variance.

    Args:
        one: (n_cells, D) of the first modality.
        other: (n_cells, E) of the second one.
        blocks: widths of the blocks of its columns, of sum D, the backbone's first.
        n: directions.
        groups: (n_cells,) donors or the like, which stay together where there are enough of them.

    Returns:
        (D,) bool, the columns that are read, and the shrinkage.
    """
    folds = make_folds(len(one), groups)
    read, shrinkage = np.ones(sum(blocks), dtype=bool), SHRINKAGES[-1]
    if not folds:
        return read, shrinkage

    def score(columns: np.ndarray, shrinkage: float) -> float:
        """Mean FOSCTTM of the folds; 1 where nothing is read."""
        if not columns.any():
            return 1.0
        return float(np.mean([_held_out(one[:, columns], other, n, shrinkage, fold) for fold in folds]))

    start = 0
    for number, width in enumerate(blocks):
        tried = []
        for size in (width, *(size for size in FIRST if number and size < width), 0):
            columns = read.copy()
            columns[start + size : start + width] = False
            tried.append(columns)
        read = min(tried, key=lambda columns: score(columns, MIDDLE))
        start += width
    return read, min(SHRINKAGES, key=lambda shrinkage: score(read, shrinkage))


def _held_out(one: np.ndarray, other: np.ndarray, n: int, shrinkage: float, fold: Fold) -> float:
    """FOSCTTM of the held-out cells of a fold."""
    kept, held = fold
    left, right, _ = canonical_directions(one[kept], other[kept], n, shrinkage)
    return foscttm((one[held] - one[kept].mean(axis=0)) @ left, (other[held] - other[kept].mean(axis=0)) @ right)


def _whitener(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    size = len(covariance)
    shrunk = covariance + (shrinkage * np.trace(covariance) / size + 1e-9) * np.eye(size)
    return np.linalg.inv(np.linalg.cholesky(shrunk))


def soft_targets(reference: Tensor, share: float, n_neighbors: int = 5) -> Tensor:
    """(1 − ω) I + ω · softmax of the cosine over each cell's nearest others: cells of one kind are no negatives.

    Args:
        reference: (B, d) cells by what is not trained.
        share: ω; 0 gives the identity.
        n_neighbors: cells that share ω.
    """
    eye = torch.eye(len(reference), device=reference.device)
    k = min(n_neighbors, len(reference) - 1)
    if share == 0 or k < 1:
        return eye
    unit = F.normalize(reference.float(), dim=1)
    near = (unit @ unit.T).masked_fill(eye.bool(), -torch.inf)
    values, places = near.topk(k, dim=1)
    weights = torch.zeros_like(near).scatter(1, places, values.softmax(dim=1))
    return (1 - share) * eye + share * weights


def contrast_loss(one: Tensor, other: Tensor, temperature: Tensor, targets: Tensor) -> Tensor:
    """½ [CE(S/τ, T) + CE(Sᵀ/τ, T)] with S = Z₁ Z₂ᵀ (CLIP, Radford et al. 2021).

    Args:
        one: (B, d) unit vectors of the first modality.
        other: (B, d) of the second one, in the same order.
        temperature: τ.
        targets: (B, B) T, rows of sum 1; the identity for hard pairs.
    """
    scores = one @ other.T / temperature
    return (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2
