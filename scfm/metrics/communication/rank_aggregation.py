"""One ranking from several (Kolde et al. 2012)."""

import numpy as np
from scipy.stats import beta, rankdata


def aggregate_ranks(scores: np.ndarray) -> np.ndarray:
    """Robust rank aggregation.

    With r_(1) <= ... <= r_(m) the ranks of an item under m scores, each divided by that score's largest rank, the
    result is min(1, m · min_k P(B_k <= r_(k))), B_k distributed as Beta(k, m - k + 1): the ranks of an item that no
    score favors are uniform. It is a bound of a p value only where the scores are independent, which scores of one
    matrix are not; use it as an order.

    Args:
        scores: (n, m); smaller is better. Ties share their mean rank.

    Returns:
        (n,) in [0, 1].
    """
    n_items, n_scores = scores.shape
    if n_items == 0:
        return np.empty(0)
    ranks = rankdata(scores, axis=0)
    shares = np.sort(ranks / ranks.max(axis=0), axis=1)
    place = np.arange(1, n_scores + 1)
    return np.minimum(beta.cdf(shares, place, n_scores - place + 1).min(axis=1) * n_scores, 1.0)
