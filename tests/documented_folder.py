"""The files that the commands of the documentation read, small, in the working folder."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd


def write_inputs() -> None:
    """Made-up cells under every name that the pages use, and tables of genes."""
    import anndata as ad

    from scfm.datasets.synthetic import synthetic_cells

    cells = synthetic_cells(n_cells=150, n_genes=150, n_types=3, n_batches=2, n_donors=10, seed=1)
    donor = cells.obs["donor"].cat.codes.to_numpy()
    cells.obs["patient"] = cells.obs["donor"]
    cells.obs["response"] = pd.Categorical(np.where(donor % 4 < 2, "yes", "no"))
    cells.obs["condition"] = cells.obs["disease"] = pd.Categorical(np.where(donor % 2, "stimulated", "control"))
    cells.obs["tissue"] = cells.obs["condition"].cat.rename_categories(["lung", "gut"])
    cells.obs["minor"] = cells.obs["cell_type"]
    cells.obs["major"] = pd.Categorical(np.where(cells.obs["cell_type"] == "type 1", "one", "other"))
    cells.obsm["X_scfm"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4))
    cells.write_h5ad("cells.h5ad")
    for name in ("new.h5ad", "new_patients.h5ad", "atlas.h5ad", "data/all.h5ad", "lung/all.h5ad"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copyfile("cells.h5ad", name)
    _write_modalities(cells, ad)
    genes = list(cells.var_names)
    pd.DataFrame({"gene": genes[:40], "class": ["a", "b"] * 20}).to_csv("classes.tsv", sep="\t", index=False)


def _write_modalities(cells, ad) -> None:
    """``cite/a.h5mu`` with proteins and ``multiome.h5mu`` with peaks."""
    import h5py
    from anndata.io import write_elem
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    panel = rng.poisson(4.0 + 6.0 * (cells.obs["major"] == "one").to_numpy()[:, None], (cells.n_obs, 4))
    peaks = rng.random((cells.n_obs, 30)) < rng.random(30)
    sides = {
        "cite/a.h5mu": ("prot", panel, ["CD3", "CD4", "CD8", "CD19"]),
        "multiome.h5mu": ("atac", peaks, [f"chr1:{100 * i}-{100 * i + 50}" for i in range(30)]),
    }
    for name, (mod, values, names) in sides.items():
        Path(name).parent.mkdir(exist_ok=True)
        side = ad.AnnData(csr_matrix(values.astype(np.int32)), obs=cells.obs[[]], var=pd.DataFrame(index=names))
        with h5py.File(name, "w") as file:
            write_elem(file, "mod/rna", cells)
            write_elem(file, f"mod/{mod}", side)


def add_models() -> None:
    """Under the names of models of other pages, those that the commands of README.md made; and a published folder."""
    import scfm

    Path("outputs/atlas_small").symlink_to("pbmc")
    folder = Path("Geneformer/Geneformer-V1-10M")
    scfm.load("outputs/pbmc/checkpoints/last.ckpt").export(folder)
    for file in folder.iterdir():
        shutil.copyfile(file, folder.parent / file.name)
