"""Made-up cells with known types, batches, donors and a trajectory, for documentation and tests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from scfm.genes.table import table
from scfm.io import atomic_write

#: Cells drawn at once.
PIECE = 2048


def synthetic_cells(
    *,
    n_cells: int = 2000,
    n_genes: int = 1000,
    n_types: int = 5,
    n_batches: int = 3,
    n_donors: int = 6,
    depth: float = 2000.0,
    marker_strength: float = 2.0,
    batch_strength: float = 0.3,
    seed: int = 0,
) -> AnnData:
    """Cells that run along one trajectory through ``n_types`` types, in several batches and donors.

    A cell at pseudotime t in [0, 1) is of type floor(t n_types). The log of its expected expression is a gene's base
    level, N(0, 1.5²), plus ``marker_strength`` for the genes that mark its type (a tenth of all genes, shared out),
    plus a smooth rise or fall a / (1 + exp(-8 (t - c))) with a ~ N(0, 1.5²), c ~ U(0, 1) for a fifth of the genes,
    plus batch and donor effects, N(0, ``batch_strength``²) and a third of it. Counts are negative-binomial
    (gamma-Poisson with shape 8), scaled to a log-normal depth per cell. Donors are nested in batches; every donor has
    cells of every type.

    Args:
        n_cells: cells.
        n_genes: genes; real human protein-coding ones, symbols in the index and Ensembl ids in ``var["gene_id"]``.
        n_types: types, named ``type 1``, ``type 2``, ...
        n_batches: batches.
        n_donors: donors.
        depth: median counts of a cell.
        marker_strength: natural log of a marker's fold change in its type.
        batch_strength: standard deviation of a batch's effect on a gene, natural log.
        seed: the same seed gives the same cells.

    Returns:
        X: (n_cells, n_genes) CSR int32; obs: ``cell_type``, ``batch``, ``donor`` (categories), ``pseudotime`` (float).

    Raises:
        ValueError: a number below one, or more genes than the shipped table has.
    """
    numbers = {"n_cells": n_cells, "n_types": n_types, "n_batches": n_batches, "n_donors": n_donors}
    for name, number in {**numbers, "n_genes": n_genes}.items():
        if number < 1:
            raise ValueError(f"synthetic cells need {name} of at least 1, got {number}")
    rng = np.random.default_rng(seed)
    var = _genes(n_genes, rng)
    pseudotime = rng.random(n_cells)
    kind = np.minimum((pseudotime * n_types).astype(np.int64), n_types - 1)
    donor = rng.integers(n_donors, size=n_cells)
    batch = donor % n_batches
    log_level = _Levels(rng, n_genes, n_types, n_batches, n_donors, marker_strength, batch_strength)
    totals = depth * np.exp(rng.normal(0, 0.35, n_cells))
    pieces = []
    for part in (slice(low, low + PIECE) for low in range(0, n_cells, PIECE)):
        level = np.exp(log_level(pseudotime[part], kind[part], batch[part], donor[part]))
        mean = level / level.sum(axis=1, keepdims=True) * totals[part, None]
        pieces.append(csr_matrix(rng.poisson(mean * rng.gamma(8.0, 1 / 8.0, mean.shape)).astype(np.int32)))
    named = {"cell_type": ("type", kind, n_types), "batch": ("batch", batch, n_batches)}
    columns = {name: _categorical(*parts) for name, parts in {**named, "donor": ("donor", donor, n_donors)}.items()}
    obs = pd.DataFrame({**columns, "pseudotime": pseudotime})
    obs.index = pd.Index([f"cell{i}" for i in range(n_cells)], dtype=object)
    return AnnData(vstack(pieces, format="csr"), obs=obs, var=var, uns={"source": f"scfm synthetic cells, seed {seed}"})


class _Levels:
    """Draws the effects of all genes once; then gives log expression levels of cells, (B, G)."""

    def __init__(
        self, rng: np.random.Generator, genes: int, types: int, batches: int, donors: int, marker: float, effect: float
    ) -> None:
        self.base = rng.normal(0, 1.5, genes)
        shuffled = rng.permutation(genes)
        self.marker = np.zeros((types, genes))
        marks = shuffled[: max(min(types, genes), genes // 10)]
        self.marker[np.arange(len(marks)) % types, marks] = marker
        self.base[marks] += 0.5  # so that markers are seen above noise
        self.moving = shuffled[len(marks) : len(marks) + genes // 5]
        self.slope = rng.normal(0, 1.5, len(self.moving))
        self.middle = rng.random(len(self.moving))
        self.batch = rng.normal(0, effect, (batches, genes))
        self.donor = rng.normal(0, effect / 3, (donors, genes))

    def __call__(self, time: np.ndarray, kind: np.ndarray, batch: np.ndarray, donor: np.ndarray) -> np.ndarray:
        levels = self.base + self.marker[kind] + self.batch[batch] + self.donor[donor]
        levels[:, self.moving] += self.slope / (1 + np.exp(-8 * (time[:, None] - self.middle)))
        return levels


def _categorical(word: str, codes: np.ndarray, n: int) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, [f"{word} {i + 1}" for i in range(n)])


def _genes(n_genes: int, rng: np.random.Generator) -> pd.DataFrame:
    """``n_genes`` protein-coding genes in the order of their Ensembl ids."""
    human = table("human")
    coding = sorted(
        gene
        for symbol, gene in human.by_symbol.items()
        if human.biotypes[gene] == "protein_coding" and "." not in symbol
    )
    if n_genes > len(coding):
        raise ValueError(f"synthetic cells can have at most {len(coding)} genes (human protein-coding), got {n_genes}")
    picked = [coding[i] for i in np.sort(rng.choice(len(coding), n_genes, replace=False)).tolist()]
    return pd.DataFrame({"gene_id": picked}, index=pd.Index([human.symbols[gene] for gene in picked], dtype=object))


def synthetic_file(*, n_cells: int = 2000, n_genes: int = 1000, n_types: int = 5, seed: int = 0) -> Path:
    """The cells of :func:`synthetic_cells` as an ``.h5ad`` in the temporary folder; the same options, the same path."""
    options = {"n_cells": n_cells, "n_genes": n_genes, "n_types": n_types, "seed": seed}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir()) / f"scfm-{owner}" / f"synthetic-{digest}.h5ad"
    with atomic_write(path) as part:
        synthetic_cells(**options).write_h5ad(part, compression="gzip")
    return path
