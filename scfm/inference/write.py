"""Adds results to a copy of an .h5ad without loading its matrix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np


def write_annotated(
    path: Path, *, obsm: Mapping[str, np.ndarray], obs: Mapping[str, np.ndarray], uns: Mapping[str, Any]
) -> None:
    """Write entries into ``obsm``, ``obs`` and ``uns`` of an .h5ad in place; all else stays as it is.

    Args:
        path: the file; ours, never the user's own.
        obsm: arrays (cells, ...), in the order of the file's rows.
        obs: columns (cells,); text becomes categorical.
        uns: dictionaries of plain nested dictionaries; what else stands in the outer ones stays.
    """
    with h5py.File(path, "r+") as file:
        for group in ("obsm", "uns"):
            if group not in file:
                anndata.io.write_elem(file, group, {})
        for key, array in obsm.items():
            anndata.io.write_elem(file["obsm"], key, np.asarray(array))
        for name, entries in uns.items():
            if name not in file["uns"]:
                anndata.io.write_elem(file["uns"], name, {})
            for key, value in entries.items():
                anndata.io.write_elem(file["uns"][name], key, value)
        if obs:
            table = anndata.io.read_elem(file["obs"])
            for column, values in obs.items():
                table[column] = values
                if np.asarray(values).dtype.kind in "OUT":
                    table[column] = table[column].astype("category")
            anndata.io.write_elem(file, "obs", table)
