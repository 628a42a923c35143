"""One honest sentence for each comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scfm.evaluate.annotation import interval


def annotation_verdict(label: str, draws: dict[str, np.ndarray], scores: pd.DataFrame, ours: list[str]) -> str:
    """Who named cells best, and by how much.

    Args:
        label: obs column.
        draws: bootstrapped macro-F1 by method, the same resamples for all.
        scores: methods × metrics.
        ours: the methods that use the embedding or the head.

    Returns:
        A sentence. It names the best simple method even where that is no flattery.
    """
    mine = scores.loc[ours, "macro_f1"].idxmax()
    simple = scores["macro_f1"].drop(index=ours).idxmax()
    low, high = interval(draws[mine] - draws[simple])
    own, other = scores.loc[mine, "macro_f1"], scores.loc[simple, "macro_f1"]
    if low > 0:
        how = f"above the best simple method, {simple} ({other:.3f})"
    elif high < 0:
        how = f"below a simple method, {simple} ({other:.3f}): use that instead"
    else:
        how = (
            f"no better than a simple method, {simple} ({other:.3f})"
            if own <= other
            else (f"not surely better than a simple method, {simple} ({other:.3f})")
        )
    return (
        f"Naming {label}: {mine} reaches a macro-F1 of {own:.3f}, {how}; "
        f"the difference is {own - other:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
    )


def integration_verdict(scores: pd.DataFrame, ours: str, baselines: list[str], score: str) -> str:
    """Which embedding keeps types together and batches mixed, and whether that is just PCA.

    Args:
        scores: embeddings × metrics.
        ours: the embedding in question.
        baselines: the real methods it stands beside (not the controls).
        score: the column that decides.

    Returns:
        A sentence.
    """
    names = {"total": "total score (0.4 batch + 0.6 bio)", "bio": "bio score", "batch": "batch score"}
    what = names.get(score, score)
    own, best = scores.loc[ours, score], scores.loc[baselines, score].idxmax()
    other = scores.loc[best, score]
    if own > other:
        return f"Embedding: {ours} has the best {what}, {own:.3f}; the next is {best} with {other:.3f}."
    text = f"Embedding: {best} has the best {what}, {other:.3f}; {ours} has {own:.3f}"
    if "PCA" in scores.index and best != "PCA":
        plain = scores.loc["PCA", score]
        text += f", {'better' if own > plain else 'no better'} than unintegrated PCA ({plain:.3f})"
    return text + (", no better than PCA." if best == "PCA" else ".")
