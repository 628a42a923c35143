"""A sketch as a table, or as a file of the chosen cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import vstack

from scfm.cells.counts import Demand
from scfm.cells.file import open_cells
from scfm.io import atomic_write, write_text


def write_sketch(
    source: Path, chosen: pd.DataFrame, output: Path, *, block_size: int = 1024, layer: str | None = None,
    counts: Demand = "lognorm_ok", mod: str = "rna",
) -> None:  # fmt: skip
    """Write the table (.csv), or the chosen cells (.h5ad) with ``obs["scfm_weight"]``.

    Args:
        source: the file that the sketch is of.
        chosen: by :func:`~scfm.sketch.sketch.draw_sketch`.
        output: what to write.
        block_size: cells read at once.
        layer: where the counts are.
        counts: whether decimals and logarithms are taken.
        mod: modality, or feature type that is genes.
    """
    if output.suffix == ".csv":
        write_text(output, chosen.to_csv(index=False))
        return
    rows, parts, frames = chosen["row"].to_numpy(), [], []
    with open_cells(source, layer=layer, counts=counts, mod=mod, on_duplicate_cells="ignore") as cells:
        for block in cells.blocks(size=block_size):
            inside = rows[(rows >= block.start) & (rows < block.start + block.counts.shape[0])] - block.start
            if len(inside):
                parts.append(block.counts[inside])
                frames.append(block.obs.iloc[inside])
        obs = pd.concat(frames)
        for name in obs.columns:
            if obs[name].dtype == object:
                obs[name] = obs[name].astype("category")
        obs["scfm_weight"], obs["scfm_row"] = chosen["weight"].to_numpy(), rows.astype(np.int64)
        var = pd.DataFrame(index=pd.Index(cells.genes).astype(str))
    with atomic_write(output) as part:
        anndata.AnnData(vstack(parts, format="csr"), obs=obs, var=var).write_h5ad(part)
