"""One honest sentence for each comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scfm.metrics.annotation import interval


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


def pretraining_verdict(scores: pd.DataFrame, ours: list[str], frozen: str, untrained: str) -> list[str]:
    """What pretraining and fine-tuning were worth: the same probe on the frozen and on an untrained backbone.

    Args:
        scores: methods × metrics, with probes on some of the two.
        ours: the methods that use the embedding or the head.
        frozen: name of the backbone before fine-tuning.
        untrained: name of the backbone of the same shape with random weights.

    Returns:
        A sentence, or none where neither was scored.
    """
    found = {
        name: float(scores.loc[f"{name}, linear probe", "macro_f1"])
        for name in (untrained, frozen)
        if f"{name}, linear probe" in scores.index
    }
    if not found:
        return []
    best = scores.loc[ours, "macro_f1"].idxmax()
    steps = [f"{value:.3f} with {name}" for name, value in found.items()]
    text = f"A linear probe reaches {' and '.join(steps)}; {best} {scores.loc[best, 'macro_f1']:.3f}"
    worth = scores.loc[best, "macro_f1"] > max(found.values())
    return [text + ("." if worth else ": the training in between has brought nothing here.")]


def ordering_verdict(scores: pd.DataFrame, ours: list[str]) -> str:
    """Which ordering agrees best with the known times, and whether a simple one does as well."""
    own, best = scores.loc[ours, "spearman"].idxmax(), scores["spearman"].drop(index=ours).idxmax()
    mine, other = scores.loc[own, "spearman"], scores.loc[best, "spearman"]
    how = "above" if mine > other else "no better than"
    return f"Ordering: {own} has a Spearman correlation of {mine:.3f} with the known times, {how} {best} ({other:.3f})."
