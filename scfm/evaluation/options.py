"""The settings of an evaluation; ``configs/evaluate.yaml`` has the same keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What is evaluated, and how.

    Attributes:
        embedding: key of ``obsm``.
        label: obs column of cell types; None: batch mixing only.
        batch: obs column of batches; None: no batch metrics.
        group: obs column that is kept whole in splits (donor); None takes ``batch``.
        layer: where the counts are; None looks into ``layers["counts"]``, ``raw.X``, ``X``.
        split: split.csv of the fine-tune that made the embedding: only its test cells are scored.
        others: further keys of ``obsm`` to compare with. ``<embedding>_state`` is always compared where it is there.
        baselines: of ``pca, hvg, harmony, combat, scanorama, bbknn, scvi, scanvi``; PCA is always computed, those that
            need a batch column or a package are left out without it.
        rivals: classifiers of expression beside the head and the probes, of ``hvg, pca, genes, celltypist, nearest``.
        controls: also score random, shuffled and label embeddings, and scale the scores by them.
        condition: obs column whose effect inside types should survive integration.
        finer: obs column of subtypes, finer than what the embedding was made for.
        time: obs column of known times or stages: score the pseudotime in ``obs["scfm_pseudotime"]`` and others.
        stages: the categories of ``time`` from first to last; None: they are numbers.
        folds: number of folds of the cross-validation.
        draws: bootstrap resamples.
        shots: shares of the training labels for few-shot curves.
        leiden: also the NMI with Leiden clusters of the best resolution.
        max_cells: of more cells, so many are drawn at random and scored.
        seed: of everything random.
        n_jobs: threads for neighbors; -1 for all.
    """

    embedding: str = "X_scfm"
    label: str | None = None
    batch: str | None = None
    group: str | None = None
    layer: str | None = None
    split: str | Path | None = None
    others: Sequence[str] = ()
    baselines: Sequence[str] = ("pca", "hvg", "harmony", "combat")
    rivals: Sequence[str] = ("hvg", "pca", "nearest")
    controls: bool = True
    condition: str | None = None
    finer: str | None = None
    time: str | None = None
    stages: list[str] | None = None
    folds: int = 5
    draws: int = 200
    shots: Sequence[float] = ()
    leiden: bool = False
    max_cells: int = 20_000
    seed: int = 0
    n_jobs: int = 1
