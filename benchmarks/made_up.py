"""Made-up cells of the size and sparsity of droplet data, written in bounded memory."""

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

GENES = 20_000
BLOCK, DIFFERENT = 1000, 8


def gene_ids(n: int = GENES) -> list[str]:
    """Ensembl ids of human protein-coding genes, made up from where there are no more."""
    from scfm.genes import biotype_of
    from scfm.genes.table import table

    known = [gene for gene in dict.fromkeys(table("human").by_symbol.values()) if biotype_of(gene) == "protein_coding"]
    return (known + [f"ENSG{9 * 10**10 + i:011d}" for i in range(n)])[:n]


def different_blocks(genes_per_cell: int, seed: int) -> list[csr_matrix]:
    """CSR float32 blocks with about ``genes_per_cell`` genes a cell (p5 to p95 about a half to one and a half)."""
    generator = np.random.default_rng(seed)
    share = generator.permutation(1 / np.arange(1, GENES + 1) ** 1.05)
    cumulative = np.cumsum(share / share.sum())
    blocks = []
    for _ in range(DIFFERENT):
        depth = np.clip(generator.lognormal(np.log(genes_per_cell * 3), 0.5, BLOCK), 500, 60_000).astype(int)
        genes = np.minimum(np.searchsorted(cumulative, generator.random(depth.sum())), GENES - 1)
        cells = np.repeat(np.arange(BLOCK), depth)
        block = csr_matrix((np.ones(len(genes), np.float32), (cells, genes)), shape=(BLOCK, GENES))
        block.sum_duplicates()
        blocks.append(block)
    return blocks


def write_h5ad(path: Path, n_cells: int, genes_per_cell: int, compression: str | None, seed: int = 0) -> int:
    """An .h5ad laid out as anndata does it; obs has ``n_counts`` and ``cell_type``, var ``ensembl_id``.

    A thousand cells repeat after every eight thousand with their genes moved on by one, so that writing is quick.

    Returns:
        Stored values.
    """
    blocks = different_blocks(genes_per_cell, seed)
    order = [(i % DIFFERENT, i // DIFFERENT) for i in range(-(-n_cells // BLOCK))]
    lengths = np.concatenate([np.diff(blocks[which].indptr) for which, _ in order])[:n_cells]
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    obs["n_counts"] = np.concatenate([np.asarray(blocks[which].sum(axis=1)).ravel() for which, _ in order])[:n_cells]
    obs["cell_type"] = pd.Categorical(np.array(list("abcd"))[np.arange(n_cells) % 4])
    genes = gene_ids()
    var = pd.DataFrame({"ensembl_id": genes}, index=genes)
    ad.AnnData(csr_matrix((n_cells, GENES), dtype=np.float32), obs, var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        group, total = file["X"], int(pointers[-1])
        for name in ("data", "indices", "indptr"):
            del group[name]
        group.create_dataset("indptr", data=pointers)
        data = group.create_dataset("data", (total,), "float32", compression=compression)
        indices = group.create_dataset("indices", (total,), "int32", compression=compression)
        for number, (which, moved) in enumerate(order):
            low, high = pointers[number * BLOCK], pointers[min(n_cells, (number + 1) * BLOCK)]
            block = csr_matrix(
                (blocks[which].data, (blocks[which].indices + moved) % GENES, blocks[which].indptr),
                shape=blocks[which].shape,
            )
            block.has_sorted_indices = False
            block.sort_indices()
            data[low:high], indices[low:high] = block.data[: high - low], block.indices[: high - low]
    return total
