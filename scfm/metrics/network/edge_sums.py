"""Edge scores of single cells, averaged over cells, under the real and under permuted gene labels."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student


class EdgeSums:
    """Running means of edge scores for several labelings of the same tokens.

    Labeling 0 is the real one. The others are permutations (:func:`permute_labels`): the model's scores stay where they
    are, and only the genes' names move, so that one pass over the cells serves all of them.

    Args:
        n_genes: G.
        n_sets: number of labelings S.
    """

    def __init__(self, n_genes: int, n_sets: int) -> None:
        self.n_genes = n_genes
        self.total = np.zeros((n_sets, n_genes * n_genes))
        self.count = np.zeros((n_sets, n_genes * n_genes), dtype=np.int64)

    def add(self, source: np.ndarray, target: np.ndarray, scores: np.ndarray) -> None:
        """Add scores of one cell.

        Args:
            source: (S, I) gene of each source token in each labeling, -1 for a token that is not among the genes.
            target: (S, J) likewise.
            scores: (I, J) how much the source matters to the target; NaN where the pair cannot be scored.
        """
        known = np.isfinite(scores)
        for place in range(len(source)):
            rows, columns = source[place], target[place]
            use = known & (rows >= 0)[:, None] & (columns >= 0)[None] & (rows[:, None] != columns[None])
            flat = (rows[:, None] * self.n_genes + columns[None])[use]
            np.add.at(self.total[place], flat, scores[use])
            np.add.at(self.count[place], flat, 1)

    def means(self, min_cells: int = 1) -> np.ndarray:
        """(S, G, G) mean scores from source to target, NaN for pairs in fewer cells."""
        enough = self.count >= max(min_cells, 1)
        mean = np.divide(self.total, self.count, out=np.full(self.total.shape, np.nan), where=enough)
        return mean.reshape(-1, self.n_genes, self.n_genes)


def permute_labels(labels: np.ndarray, strata: np.ndarray, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Gene labels exchanged between tokens of the same stratum, across cells.

    Args:
        labels: (T,) gene of each token of all cells, -1 for those that are not among the genes.
        strata: (T,) int, the rank decile of each token in its cell: a gene stays about as highly ranked as it was.
        n_permutations: K.
        rng: draws.

    Returns:
        (1 + K, T): the labels themselves, then the permutations. Tokens of label -1 keep it.
    """
    sets = np.tile(labels, (1 + n_permutations, 1))
    for stratum in np.unique(strata[labels >= 0]):
        tokens = np.flatnonzero((strata == stratum) & (labels >= 0))
        for row in sets[1:]:
            row[tokens] = labels[rng.permutation(tokens)]
    return sets


def compare_edges(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Z and p of each edge against the permuted labelings.

    z = (observed − mean of the permutations) / their standard deviation, pair by pair. p takes the tail of Student's t
    at z, and compares it with the tails of the permutations, each against all others, pooled over pairs:
    (1 + #{tail_null <= tail}) / (1 + their number). The pooling gives small p values from few permutations and corrects
    for sums that are not normal; it takes the shape of the null to be alike for all pairs.

    Args:
        means: (1 + K, G, G) of :meth:`EdgeSums.means`, K of at least 3.

    Returns:
        z, p (G, G): NaN for pairs with fewer than three permutations, or whose permutations do not vary.
    """
    observed, null = means[0], means[1:]
    n = np.isfinite(null).sum(axis=0)
    center, spread = _moments(null, n)
    z = np.where(n >= 3, (observed - center) / spread, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_mean = (n * center - null) / (n - 1)
        left_square = ((n - 1) * spread**2 - n / (n - 1) * (null - center) ** 2) / (n - 2)
        others = (null - left_mean) / np.sqrt(np.where(left_square > 1e-30, left_square, np.nan))
        tails = student.sf(others / np.sqrt(1 + 1 / (n - 1)), n - 2)
        tail = student.sf(z / np.sqrt(1 + 1 / n), n - 1)
    pooled = np.sort(tails[np.isfinite(tails)])
    p = np.full(z.shape, np.nan)
    known = np.isfinite(tail)
    p[known] = (1 + np.searchsorted(pooled, tail[known], side="right")) / (1 + len(pooled))
    return z, p


def _moments(null: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n − 1) over permutations, NaN where there are none or no variation."""
    with np.errstate(invalid="ignore", divide="ignore"):
        center = np.nansum(null, axis=0) / n
        square = np.nansum((null - center) ** 2, axis=0) / (n - 1)
    return center, np.sqrt(np.where(square > 1e-30, square, np.nan))
