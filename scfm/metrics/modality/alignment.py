"""How well cells of two modalities find each other in one space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Cells that are compared with all others at a time.
BLOCK = 2048


def foscttm(one: np.ndarray, other: np.ndarray) -> float:
    """Share of cells closer than the true match, mean over cells and both directions (Liu et al. 2019).

    Args:
        one: (n, d), the cells by their first modality.
        other: (n, d), the same cells by their second one.

    Returns:
        0 where every cell is the closest to itself, 0.5 by chance; cells at the same distance count as half.
    """
    return float(np.mean([_closer(one, other), _closer(other, one)]))


def _closer(one: np.ndarray, other: np.ndarray) -> float:
    total = 0.0
    for _, near, own in _similarities(one, other):
        total += (near > own).sum() + ((near == own).sum() - len(own)) / 2
    return total / max(len(one) * (len(one) - 1), 1)


def recall(one: np.ndarray, other: np.ndarray, k: int) -> float:
    """Share of cells whose true match is among their k nearest cells of the other modality, mean of both directions."""
    hits = [
        sum(((near > own).sum(axis=1) < k).sum() for _, near, own in _similarities(*pair))
        for pair in ((one, other), (other, one))
    ]
    return float(sum(hits) / (2 * len(one)))


def transfer_accuracy(
    known: np.ndarray, codes: np.ndarray, asked: np.ndarray, truth: np.ndarray, n_neighbors: int = 15
) -> float:
    """Accuracy of labels carried from cells of one modality to cells of another by the nearest cells.

    Args:
        known: (n, d) cells with labels.
        codes: (n,) their labels, -1 where missing.
        asked: (m, d) cells of the other modality.
        truth: (m,) their labels, -1 where missing.
        n_neighbors: cells that vote.
    """
    from sklearn.neighbors import KNeighborsClassifier

    labeled, judged = codes >= 0, truth >= 0
    if not judged.any() or len(np.unique(codes[labeled])) < 2:
        return float("nan")
    model = KNeighborsClassifier(min(n_neighbors, int(labeled.sum()))).fit(_unit(known[labeled]), codes[labeled])
    return float((model.predict(_unit(asked[judged])) == truth[judged]).mean())


def _similarities(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cosines of some cells with all of the other modality, (b, n), and with their match, (b, 1)."""
    rows, columns = _unit(one), _unit(other)
    for start in range(0, len(rows), BLOCK):
        near = rows[start : start + BLOCK] @ columns.T
        places = np.arange(len(near))
        yield start, near, near[places, start + places][:, None]


def _unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(min=1e-12)
