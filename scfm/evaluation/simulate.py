"""Made-up cells whose batch effect and biology are known, to see when a method corrects too little or too much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from scfm.evaluation.correction import pseudo_kept
from scfm.evaluation.methods.baselines import Embedder
from scfm.evaluation.methods.expression import Expression, read_expression
from scfm.metrics.correction import correction_scores
from scfm.metrics.integration import integration_scores


@dataclass(frozen=True)
class Simulated:
    """Cells with everything that is true of them.

    Attributes:
        expression: their counts.
        label: (B,) types; ``lone``, a neighbor of ``A``, is in the first batch only.
        finer: (B,) the halves of each type's gradient.
        condition: (B,) treated or not, in every batch.
        batch: (B,) names; the last batch is a quarter as large as the others.
        time: (B,) 0 to 1, place on each type's gradient.
    """

    expression: Expression
    label: np.ndarray
    finer: np.ndarray
    condition: np.ndarray
    batch: np.ndarray
    time: np.ndarray


def simulate(
    *, batch: float, biology: float, n_cells: int = 600, n_genes: int = 300, n_batches: int = 3, seed: int = 0
) -> Simulated:
    """Poisson counts of three types, each with a gradient and a condition effect, and of a type in one batch alone.

    log rate = gene + type + ``biology`` · (gradient · time + condition) + ``batch`` · (gene bias + type × gene bias of
    the batch), every effect normal with a standard deviation of its own, and log-normal depths.

    Args:
        batch: strength of the batch effect; 0 for none.
        biology: strength of what differs inside types.
        n_cells: B.
        n_genes: G.
        n_batches: at least two.
        seed: of everything.

    Returns:
        The cells.
    """
    rng = np.random.default_rng(seed)
    sizes = np.ones(n_batches)
    sizes[-1] = 0.25
    batches = rng.choice(n_batches, n_cells, p=sizes / sizes.sum())
    types = rng.integers(3, size=n_cells)
    types[(batches == 0) & (rng.random(n_cells) < 0.2)] = 3
    time, treated = rng.random(n_cells), rng.integers(2, size=n_cells)
    program = rng.normal(0, 0.8, (4, n_genes))
    program[3] = program[0] + rng.normal(0, 0.35, n_genes)  # near enough to type A to be taken for it
    log_rate = rng.normal(-0.5, 1, n_genes) + program[types]
    log_rate += biology * rng.normal(0, 0.8, (4, n_genes))[types] * (time - 0.5)[:, None]
    log_rate += biology * rng.normal(0, 0.3, n_genes) * treated[:, None]
    log_rate += batch * rng.normal(0, 0.5, (n_batches, n_genes))[batches]
    log_rate += batch * rng.normal(0, 0.2, (n_batches, 4, n_genes))[batches, types]
    rate = np.exp(log_rate) * rng.lognormal(0, 0.3, (n_cells, 1))
    label = np.array(["A", "B", "C", "lone"], dtype=object)[types]
    return Simulated(
        expression=read_expression(AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))),
        label=label,
        finer=np.array([f"{name}{half}" for name, half in zip(label, (time > 0.5).astype(int), strict=True)], object),
        condition=np.array(["control", "treated"], dtype=object)[treated],
        batch=np.array([f"batch {code}" for code in batches], dtype=object),
        time=time,
    )


def grid(
    methods: Mapping[str, Embedder],
    *,
    batch: Iterable[float] = (0.0, 0.5, 1.0),
    biology: Iterable[float] = (0.3, 1.0),
    n_cells: int = 600,
    seeds: Iterable[int] = (0,),
) -> pd.DataFrame:
    """Every method on every strength of batch effect and biology.

    Args:
        methods: the functions of :data:`scfm.evaluation.methods.baselines.BASELINES`; PCA is always there.
        batch: strengths of the batch effect.
        biology: strengths of what differs inside types.
        n_cells: of each set.
        seeds: of the sets.

    Returns:
        A row for each set and method: ``batch, biology, seed, method``, the scores of
        :func:`scfm.metrics.correction.correction_scores`, ``pseudo_kept`` and ``total, bio, batch_score, cilisi``.
    """
    rows = []
    for strength, inner, seed in product(batch, biology, seeds):
        cells = simulate(batch=strength, biology=inner, n_cells=n_cells, seed=seed)
        pca = cells.expression.principal_components(seed=seed)
        embeddings = {"PCA": pca} | {
            name: make(cells.expression, cells.batch, cells.label, seed) for name, make in methods.items()
        }
        table = correction_scores(
            embeddings, cells.label, cells.batch, condition=cells.condition, finer=cells.finer, seed=seed
        )
        for name, values in embeddings.items():
            scores = integration_scores(values, cells.label, cells.batch, pca, seed=seed)
            row = {"batch": strength, "biology": inner, "seed": seed, "method": name, **table.loc[name].to_dict()}
            row |= {"total": scores["total"], "bio": scores["bio"], "batch_score": scores["batch"]}
            row |= {"cilisi": scores["cilisi"], "pseudo_kept": _pseudo(methods.get(name), cells, seed)}
            rows.append(row)
    return pd.DataFrame(rows)


def _pseudo(make: Embedder | None, cells: Simulated, seed: int) -> float:
    """1 for PCA itself."""
    if make is None:
        return 1.0
    of_largest = cells.label[cells.batch == pd.Series(cells.batch).mode()[0]]
    return pseudo_kept(lambda part, pieces: make(part, pieces, of_largest, seed), cells.expression, cells.batch, seed)
