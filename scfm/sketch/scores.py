"""How much a cell is worth in a sketch: its leverage, or how far its neighbors are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scfm.sketch.features import Features

#: Rows of the CountSketch (Clarkson & Woodruff 2013), as in Seurat v5.
SKETCH_ROWS = 5000
#: Up to this many features leverage is exact; beyond, rows are projected onto so many random directions.
EXACT, DIRECTIONS = 256, 64
#: Cells against which density is measured, the neighbor whose distance counts, and components of the distance.
REFERENCE, NEIGHBOR, COMPONENTS = 5000, 25, 50

#: Makes the progress callback of a pass: title -> advance.
Bar = Callable[[str], Any]


def leverage_scores(features: Features, seed: int, bar: Bar) -> np.ndarray:
    """(n,) leverage ‖row i of Q‖² for A = QR; they sum to the rank of A.

    R comes from a CountSketch of A with 5,000 rows in one pass, exactly from AᵀA where there are few features; a second
    pass gives ‖a_i R⁻¹‖², or ‖a_i R⁻¹ G‖² with G a Gaussian matrix of 64 columns (Drineas et al. 2012; Seurat v5).

    Args:
        features: read twice.
        seed: of sketch and projection.
        bar: progress of each pass.
    """
    rng = np.random.default_rng(seed)
    d = features.width
    exact = d <= EXACT
    gathered = np.zeros((d, d) if exact else (SKETCH_ROWS, d))
    with bar("Summing") as advance:
        for _, rows in features.blocks(advance):
            if exact:
                gathered += rows.T @ rows
            else:
                place = rng.integers(0, SKETCH_ROWS, len(rows))
                np.add.at(gathered, place, rows * rng.choice([-1.0, 1.0], len(rows))[:, None])
    inverse = _inverse_root(gathered if exact else gathered.T @ gathered)
    if not exact:
        inverse = inverse @ rng.normal(0, DIRECTIONS**-0.5, (inverse.shape[1], DIRECTIONS))
    scores = np.zeros(features.n_cells)
    with bar("Scoring") as advance:
        for low, rows in features.blocks(advance):
            scores[low : low + len(rows)] = ((rows @ inverse) ** 2).sum(axis=1)
    return scores


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """R⁻¹ (d, r) with RᵀR the Gram matrix, on the directions in which there is any spread."""
    spread, vectors = np.linalg.eigh(gram)
    kept = spread > spread[-1] * 1e-10
    return vectors[:, kept] / np.sqrt(spread[kept])


def density_scores(features: Features, seed: int, bar: Bar) -> np.ndarray:
    """(n,) distance to the 25th neighbor among 5,000 cells drawn at random: large where cells are sparse (Cumulus).

    Distances are of 50 principal components of these cells.

    Args:
        features: read twice.
        seed: of the draw.
        bar: progress of each pass.
    """
    from sklearn.neighbors import NearestNeighbors

    n, rng = features.n_cells, np.random.default_rng(seed)
    chosen = np.sort(rng.choice(n, min(n, REFERENCE), replace=False))
    parts = []
    with bar("Drawing a reference") as advance:
        for low, rows in features.blocks(advance):
            inside = chosen[(chosen >= low) & (chosen < low + len(rows))]
            parts.append(rows[inside - low])
    reference = np.concatenate(parts)
    center = reference.mean(axis=0)
    _, vectors = np.linalg.eigh((reference - center).T @ (reference - center))
    directions = vectors[:, ::-1][:, :COMPONENTS]
    # a cell of the reference is its own first neighbor, another is not
    neighbors = NearestNeighbors(n_neighbors=min(NEIGHBOR + 1, len(reference)))
    neighbors.fit((reference - center) @ directions)
    is_reference = np.zeros(n, dtype=bool)
    is_reference[chosen] = True
    scores = np.zeros(n)
    with bar("Scoring") as advance:
        for low, rows in features.blocks(advance):
            distance, _ = neighbors.kneighbors((rows - center) @ directions)
            own = is_reference[low : low + len(rows)]
            scores[low : low + len(rows)] = np.where(own, distance[:, -1], distance[:, max(distance.shape[1] - 2, 0)])
    return scores
