"""Detect the format of a file by its content, not by its name."""

from __future__ import annotations

import os
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from scfm.cells.formats.anndata import AnnDataGroup, JoinedObs
from scfm.cells.formats.filters import require_filters
from scfm.cells.formats.folder_limits import list_own_files, require_own_chunks
from scfm.cells.formats.hdf5_limits import require_own_data
from scfm.cells.formats.loom import Loom
from scfm.cells.formats.matrix_market import find_market, is_market_file, open_market
from scfm.cells.formats.soma import Soma
from scfm.cells.formats.tenx import open_tenx, tenx_group
from scfm.cells.source import Source, did_you_mean

KNOWN = ".h5ad, .zarr, .h5mu, 10x .h5, a folder with 10x matrix.mtx or its .mtx file, .loom, a TileDB-SOMA experiment"


def open_source(path: Path, mod: str) -> Source:
    """Open a file or folder in its own format.

    Args:
        path: the file.
        mod: modality of a MuData file, measurement of a SOMA experiment, genome of a 10x file of version 2.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is empty, truncated, unreadable or of no known kind.
    """
    require_readable(path)
    if path.is_dir():
        return _open_folder(path, mod)
    if is_market_file(path):
        return open_market(path)
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise ValueError("is an empty file of 0 bytes; copy or download it again")
    if not h5py.is_hdf5(path):
        raise ValueError(_not_hdf5(path, head))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise ValueError(f"is truncated: copy or download it again (HDF5 says: {error})") from error
        raise ValueError(f"cannot be opened as HDF5: {error}") from error
    try:
        require_own_data(file)
        require_filters(file)
        return _open_hdf5(file, path, mod)
    except BaseException:
        file.close()
        raise


def require_readable(path: Path) -> None:
    """Refuse a path that is not there or may not be read.

    Raises:
        FileNotFoundError, PermissionError: naming the path, and a similar name where there is one.
        ValueError: it is neither a file nor a folder.
    """
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, siblings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected a file of cells ({KNOWN})"
        raise FileNotFoundError(f"there is no {path}; {hint}")
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        raise PermissionError(f"{path} may not be read by this user; ask its owner, or chmod +r it")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(
            "is a pipe or a device, which can be read once and from its beginning only; write it to a file first"
        )


def _not_hdf5(path: Path, head: bytes) -> str:
    if path.name.removesuffix(".gz").endswith(("barcodes.tsv", "features.tsv", "genes.tsv")):
        fault = "is one file of a 10x folder: give the folder that has matrix, barcodes and features"
    elif head.startswith(b"\x1f\x8b"):
        fault = "is gzip-compressed: gunzip it first"
    elif head.startswith(b"PK"):
        fault = "is a zip file: unpack it first"
    else:
        fault = f"is not a file of cells (it starts with {head!r})"
    return f"{fault}; expected {KNOWN}"


def _open_hdf5(file: h5py.File, path: Path, mod: str) -> Source:
    if "mod" in file:
        return _open_anndata(file, mod, owner=file)
    if "row_attrs" in file and "col_attrs" in file:
        return Loom(file)
    genome = tenx_group(file, mod)
    if genome is not None:
        return open_tenx(file, genome)
    if "obs" in file or "var" in file or "X" in file:
        return AnnDataGroup(file, owner=file)
    parts = ", ".join(map(repr, list(file.keys())[:12])) or "nothing"
    raise ValueError(f"is HDF5 but not a file of cells: it has {parts}; expected {KNOWN}")


def _open_anndata(group: Any, mod: str, owner: Any = None) -> Source:
    """AnnData, or one modality of MuData with the labels of all of its cells."""
    if "mod" not in group:
        return AnnDataGroup(group, owner=owner)
    names = sorted(group["mod"].keys())
    same = [name for name in names if name.lower() == mod.lower()]
    if mod not in names and len(same) == 1:
        mod = same[0]
    if mod not in names:
        raise ValueError(f"has no modality {mod!r}; {did_you_mean(mod, names)}; name one with mod=...")
    others = {name: partial(AnnDataGroup, group["mod"][name]) for name in names if name != mod}
    one = AnnDataGroup(group["mod"][mod], owner=owner, modalities=others)
    return one if "obs" not in group else JoinedObs(one, group["obs"])


def _open_folder(path: Path, mod: str) -> Source:
    if (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        import zarr

        require_own_chunks(path)
        # Read what is on the disk: consolidated metadata may be older.
        return _open_anndata(zarr.open_group(str(path), mode="r", use_consolidated=False), mod)
    if find_market(path):
        return open_market(path)
    if (path / "__tiledb_group.tdb").exists() or (path / "__group").is_dir():
        list_own_files(path)
        return Soma(path, mod)
    raise ValueError(f"is a folder without cells; expected {KNOWN}")
