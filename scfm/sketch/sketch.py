"""Choose cells of a file: scores, groups, a draw, and weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scfm.cells.counts import Demand
from scfm.cells.file import CellFile, open_cells
from scfm.progress import Progress
from scfm.sketch.draw import draw_systematic, inclusion_chances, share_out
from scfm.sketch.features import Embedded, Expression, Features
from scfm.sketch.scores import density_scores, leverage_scores

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)

Method = Literal["leverage", "density", "uniform"]


@dataclass(frozen=True)
class SketchOptions:
    """How a sketch is drawn.

    Attributes:
        n: cells of the sketch.
        method: ``leverage`` (Seurat v5), ``density`` (Cumulus) or ``uniform``.
        by: obs column; each of its groups gives the same number of cells, small ones all of theirs. None: all alike.
        key: embedding in obsm by which cells are chosen; None: variable genes.
        genes: variable genes that are read.
        block_size: cells read at once.
        seed: of everything random.

    Raises:
        ValueError: a number out of its range or an unknown method.
    """

    n: int
    method: Method = "leverage"
    by: str | None = None
    key: str | None = None
    genes: int = 2000
    block_size: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("leverage", "density", "uniform"):
            raise ValueError(f"method={self.method!r}; expected leverage, density or uniform")
        for name in ("n", "genes", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a whole number, 1 or more")


def draw_sketch(
    source: str | Path | AnnData, options: SketchOptions, *, layer: str | None = None, counts: Demand = "lognorm_ok",
    mod: str = "rna", progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Choose cells of a file or an AnnData that stand for all of them.

    The file is read block by block: memory holds some numbers for each gene and 8 bytes for each cell.

    Args:
        source: cells of any kind that scfm reads; not modified.
        options: see :class:`SketchOptions`.
        layer: where the counts are; None: found.
        counts: whether decimals and logarithms are taken.
        mod: modality, or feature type that is genes.
        progress: show progress bars.

    Returns:
        A row for each chosen cell, ascending: ``row``, ``cell``, ``group``, ``weight`` (1 / chance) and ``score``.
        Weighted by ``weight``, shares and means are unbiased; unweighted ones overstate rare states.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, has fewer cells than ``n`` or more groups than ``n``, or no such column or key.

    Example:
        >>> chosen = draw_sketch("atlas.h5ad", SketchOptions(n=50_000, by="batch"))   # doctest: +SKIP
    """
    with open_cells(source, layer=layer, counts=counts, mod=mod, on_duplicate_cells="ignore") as cells:
        if options.n > cells.n_cells:
            raise ValueError(f"n={options.n}, but {cells.path} has {cells.n_cells} cells; expected at most so many")
        codes, groups = _groups(cells, options)
        scores = _scores(source, cells, options, _bars(cells.n_cells, progress))
        chances = np.zeros(cells.n_cells)
        rng = np.random.default_rng([options.seed, 7])
        chosen = []
        for group, n in enumerate(share_out(np.bincount(codes, minlength=len(groups)), options.n)):
            own = np.flatnonzero(codes == group)
            if n:
                chances[own] = inclusion_chances(scores[own], int(n))
                chosen.append(own[draw_systematic(chances[own], rng)])
        rows = np.sort(np.concatenate(chosen))
        names = _names(cells, rows, options.block_size)
    log.info("Chose %d of %d cells by %s.", len(rows), len(chances), options.method)
    return pd.DataFrame({
        "row": rows, "cell": names, "group": np.array(groups, dtype=object)[codes[rows]],
        "weight": 1 / chances[rows], "score": scores[rows],
    })  # fmt: skip


def _groups(cells: CellFile, options: SketchOptions) -> tuple[np.ndarray, list[str]]:
    """(n,) code of each cell's group, and their names."""
    if options.by is None:
        return np.zeros(cells.n_cells, dtype=np.int32), [""]
    cells.require_obs([options.by])
    known: dict[str, int] = {}
    codes = np.zeros(cells.n_cells, dtype=np.int32)
    for low in range(0, cells.n_cells, options.block_size):
        values = cells.obs_rows(low, min(low + options.block_size, cells.n_cells), [options.by])[options.by]
        codes[low : low + len(values)] = [known.setdefault(str(value), len(known)) for value in values]
    if len(known) > options.n:
        raise ValueError(f"obs[{options.by!r}] has {len(known)} groups, but n={options.n}; expected a cell of each")
    return codes, list(known)


def _scores(source: str | Path | AnnData, cells: CellFile, options: SketchOptions, bar: Callable) -> np.ndarray:
    if options.method == "uniform":
        return np.ones(cells.n_cells)
    features: Features
    if options.key is not None:
        if not isinstance(source, (str, Path)):
            raise ValueError(f"key={options.key!r} reads obsm of a file; write the AnnData, or leave key out")
        features = Embedded(Path(source), options.key, options.block_size)
    else:
        with bar("Choosing genes") as advance:
            features = Expression(cells, options.genes, options.block_size, advance)
    score = leverage_scores if options.method == "leverage" else density_scores
    return score(features, options.seed, bar)


def _bars(n_cells: int, progress: bool) -> Callable[[str], AbstractContextManager[Callable[[int], None]]]:
    """Progress of a pass over all cells: title -> a context with its callback."""

    @contextmanager
    def shown(title: str) -> Iterator[Callable[[int], None]]:
        with Progress(title, n_cells) as bar:
            yield bar.advance

    return shown if progress else lambda title: nullcontext(lambda n: None)


def _names(cells: CellFile, rows: np.ndarray, block_size: int) -> list[str]:
    names: list[str] = []
    for low in range(0, cells.n_cells, block_size):
        inside = rows[(rows >= low) & (rows < low + block_size)]
        if len(inside):
            index = cells.obs_rows(low, min(low + block_size, cells.n_cells), []).index
            names += [str(index[row - low]) for row in inside]
    return names
