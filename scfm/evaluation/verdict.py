"""One sentence for each comparison, whether it is in our favor or not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scfm.evaluation.annotation import Annotation
from scfm.evaluation.methods.method import COMPONENTS, FROZEN, LINEAR, UNTRAINED, Method, Role, names
from scfm.evaluation.trajectory import Trajectory, has_stages
from scfm.metrics.annotation import interval

#: How a sentence names a space.
ARTICLES = {UNTRAINED: "", FROZEN: "the "}


def annotation_verdict(label: str, annotation: Annotation) -> str:
    """Which method names cells best, and by how much.

    Args:
        label: obs column.
        annotation: its methods, scores and bootstrap draws.

    Returns:
        A sentence about the best of ours and the best of the others; ablations take no part.
    """
    scores, draws = annotation.scores["macro_f1"], annotation.draws
    mine, other = (scores[annotation.names(*roles)].idxmax() for roles in (("ours",), ("rival", "control")))
    low, high = interval(draws[mine] - draws[other])
    own, best = scores[mine], scores[other]
    if low > 0:
        outcome = f"above the best alternative, {other} ({best:.3f})"
    elif high < 0:
        outcome = f"below an alternative, {other} ({best:.3f}): use that instead"
    elif own <= best:
        outcome = f"no better than an alternative, {other} ({best:.3f})"
    else:
        outcome = f"not surely better than an alternative, {other} ({best:.3f})"
    return (
        f"Naming {label}: {mine} reaches a macro-F1 of {own:.3f}, {outcome}; "
        f"the difference is {own - best:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
    )


def integration_verdict(scores: pd.DataFrame, ours: str, rivals: list[str], score: str) -> str:
    """Which embedding keeps types together and batches mixed, and whether PCA does the same.

    Args:
        scores: embeddings × metrics.
        ours: the embedding in question.
        rivals: the other embeddings, controls and ablations left out.
        score: the column that decides.

    Returns:
        A sentence.
    """
    titles = {"total": "total score (0.4 batch + 0.6 bio)", "bio": "bio score", "batch": "batch score"}
    title = titles.get(score, score)
    own, best = scores.loc[ours, score], scores.loc[rivals, score].idxmax()
    other = scores.loc[best, score]
    if own > other:
        return f"Embedding: {ours} has the best {title}, {own:.3f}; the next is {best} with {other:.3f}."
    text = f"Embedding: {best} has the best {title}, {other:.3f}; {ours} has {own:.3f}"
    if "PCA" in scores.index and best != "PCA":
        plain = scores.loc["PCA", score]
        text += f", {'better' if own > plain else 'no better'} than unintegrated PCA ({plain:.3f})"
    return text + (", no better than PCA." if best == "PCA" else ".")


def pretraining_verdict(annotation: Annotation) -> list[str]:
    """What pretraining and fine-tuning add: the same probe on the frozen and on an untrained backbone.

    Returns:
        A sentence, or none where neither was scored.
    """
    scores = annotation.scores["macro_f1"]
    steps = {space: scores[name] for space in (UNTRAINED, FROZEN) if (name := _probe_name(annotation.methods, space))}
    if not steps:
        return []
    best = scores[annotation.names("ours")].idxmax()
    listed = " and ".join(f"{value:.3f} with {ARTICLES[space]}{space}" for space, value in steps.items())
    text = f"A linear probe reaches {listed}; {best} {scores[best]:.3f}"
    return [text + ("." if scores[best] > max(steps.values()) else ": the training in between has brought nothing.")]


def component_verdict(embedding: str, state: str, annotation: Annotation) -> list[str]:
    """What the backbone adds to the gene components of a head, and what they add to the backbone.

    Args:
        embedding: key of the backbone's embedding.
        state: key of what the head reads, both together.
        annotation: with linear probes on both and on the components.

    Returns:
        A sentence, or none where one of the three was not probed.
    """
    probes = [_probe_name(annotation.methods, space) for space in (embedding, COMPONENTS, state)]
    if any(name is None for name in probes):
        return []
    backbone, components, both = (str(name) for name in probes)
    return [describe_gain(annotation.scores["macro_f1"], annotation.draws, backbone, components, both)]


def describe_gain(scores: pd.Series, draws: dict[str, np.ndarray], backbone: str, components: str, both: str) -> str:
    """The sentence of :func:`component_verdict`.

    Args:
        scores: macro-F1 by method.
        draws: bootstrapped macro-F1 by method, from the same resamples.
        backbone: name of the probe on the backbone's embedding.
        components: name of the probe on the gene components.
        both: name of the probe on both together.
    """

    def gain(start: str) -> str:
        low, high = interval(draws[both] - draws[start])
        return f"{scores[both] - scores[start]:+.3f} [{low:+.3f}, {high:+.3f}]"

    return (
        f"On cells kept aside, the backbone adds {gain(components)} macro-F1 to the gene components; the components "
        f"add {gain(backbone)} to the backbone (linear probes, 95 % intervals of paired resamples)."
    )


def trajectory_verdict(trajectory: Trajectory) -> list[str]:
    """Which ordering agrees best with the known times, and whether a simple one does as well.

    By the Spearman correlation; where the truth is stages, whose ties bound it below 1, by the concordance.

    Returns:
        A sentence, or none where nothing of ours, or nothing else, could be scored.
    """
    tied = bool(trajectory.stages) or has_stages(trajectory.truth)
    metric = "concordance" if tied else "spearman"
    title = (
        "orders {0:.1%} of the pairs of cells of different stages" if tied else "has a Spearman correlation of {0:.3f}"
    )
    scores = trajectory.scores[metric].dropna()
    other: tuple[Role, ...] = ("rival", "control", "ablation")
    own, others = (scores[scores.index.isin(trajectory.names(*roles))] for roles in (("ours",), other))
    if own.empty or others.empty:
        return []
    outcome = "above" if own.max() > others.max() else "no better than"
    end = (
        f"rightly, {outcome} {others.idxmax()} ({others.max():.1%})."
        if tied
        else (f"with the known times, {outcome} {others.idxmax()} ({others.max():.3f}).")
    )
    return [f"Ordering: {own.idxmax()} {title.format(own.max())} {end}"]


def integration_sentences(scores: pd.DataFrame, methods: tuple[Method, ...], ours: str) -> list[str]:
    """:func:`integration_verdict` by the score that the columns allow; none without one."""
    score = next((name for name in ("total", "bio", "ilisi") if name in scores), None)
    return [] if score is None else [integration_verdict(scores, ours, names(methods, "rival"), score)]


def _probe_name(methods: tuple[Method, ...], space: str) -> str | None:
    return next((method.name for method in methods if method.space == space and method.model == LINEAR), None)
