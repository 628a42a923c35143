"""Cell Ranger's ``filtered_feature_bc_matrix.h5`` (version 3 and later) and ``filtered_gene_bc_matrices.h5`` (2)."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pandas as pd

from scfm.cells.formats.hdf5_matrix import CsrMatrix
from scfm.cells.formats.names_only import NamesOnly


def tenx_group(file: h5py.File, genome: str) -> str | None:
    """The group with the matrix: "matrix", or the genome in version 2; None if it is no 10x file.

    Args:
        file: open.
        genome: the one to take of several.

    Raises:
        ValueError: version 2 with several genomes, and ``genome`` is none of them.
    """
    groups = [name for name, part in file.items() if isinstance(part, h5py.Group) and "barcodes" in part]
    if len(groups) > 1 and genome not in groups:
        raise ValueError(f"has several genomes ({', '.join(groups)}); name the one to take (mod={groups[0]})")
    return (genome if genome in groups else groups[0]) if groups else None


def open_tenx(file: h5py.File, name: str) -> NamesOnly:
    """The cells of the group ``name``; genes x cells by columns, which is cells x genes by rows.

    Raises:
        ValueError: a member is missing, or the number of genes, cells and the shape contradict each other.
    """
    group = file[name]
    for member in ("shape", "data", "indices", "indptr"):
        if member not in group:
            raise ValueError(f"looks like a 10x file, but its {name} has no {member!r}; {_members(group)}")
    names = _read_texts(group["barcodes"])
    var = _features(group)
    shape = tuple(int(n) for n in group["shape"][:])
    if shape != (len(var), len(names)):
        raise ValueError(
            f"its matrix is {shape[0]} x {shape[1]} but there are {len(var)} features, {len(names)} barcodes"
        )
    return NamesOnly(names, var, name, lambda: CsrMatrix(group, (len(names), len(var))), owner=file)


def _features(group: h5py.Group) -> pd.DataFrame:
    """The features' table, named by symbol where the file has symbols; all but one of its names may be missing.

    Raises:
        ValueError: it has neither ids nor symbols.
    """
    features = group.get("features", group)
    ids, symbols, kinds = ("genes", "gene_names", None) if features is group else ("id", "name", "feature_type")
    columns = {"gene_ids": ids, "gene_names": symbols, "feature_types": kinds}
    texts = {
        column: _read_texts(features[member]) for column, member in columns.items() if member and member in features
    }
    index = texts.pop("gene_names", texts.get("gene_ids"))
    if index is None:
        raise ValueError(f"its {features.name} has neither {ids!r} nor {symbols!r}; {_members(features)}")
    return pd.DataFrame(texts, index=pd.Index(index, dtype=object, name="gene_names"))


def _members(group: h5py.Group) -> str:
    return f"it has {', '.join(map(repr, sorted(group.keys())))}"


def _read_texts(dataset: Any) -> np.ndarray:
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]], dtype=object)
