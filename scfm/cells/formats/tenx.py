"""Cell Ranger's ``filtered_feature_bc_matrix.h5`` (version 3 and later) and ``filtered_gene_bc_matrices.h5`` (2)."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pandas as pd

from scfm.cells.formats.hdf5_limits import require_size
from scfm.cells.formats.hdf5_matrix import Compressed
from scfm.cells.formats.names_only import Plain


def tenx_group(file: h5py.File) -> str | None:
    """The group with the matrix: "matrix", or the genome in version 2; None if this is no such file.

    Raises:
        ValueError: version 2 with several genomes.
    """
    groups = [name for name, part in file.items() if isinstance(part, h5py.Group) and "barcodes" in part]
    if len(groups) > 1:
        raise ValueError(f"has several genomes ({', '.join(groups)}); write one file for each")
    return groups[0] if groups else None


def open_tenx(file: h5py.File, name: str) -> Plain:
    """The cells of the group ``name``; genes x cells by columns, which is cells x genes by rows.

    Raises:
        ValueError: the number of genes, cells and the shape contradict each other.
    """
    group = file[name]
    genes = group["features/id"] if "features" in group else group["genes"]
    require_size(group["barcodes"].shape[0], genes.shape[0], name)
    names = _texts(group["barcodes"])
    var = _features(group)
    shape = tuple(int(n) for n in group["shape"][:])
    if shape != (len(var), len(names)):
        raise ValueError(
            f"its matrix is {shape[0]} x {shape[1]} but there are {len(var)} features, {len(names)} barcodes"
        )
    return Plain(names, var, name, lambda: Compressed(group, (len(names), len(var))), owner=file)


def _features(group: h5py.Group) -> pd.DataFrame:
    if "features" not in group:
        return pd.DataFrame({"gene_ids": _texts(group["genes"])}, index=_texts(group["gene_names"]))
    features = group["features"]
    return pd.DataFrame(
        {"gene_ids": _texts(features["id"]), "feature_types": _texts(features["feature_type"])},
        index=_texts(features["name"]),
    )


def _texts(dataset: Any) -> np.ndarray:
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]], dtype=object)
