"""What a model says of cells, as entries of an AnnData: in memory, or in a copy of an .h5ad."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import vstack

from scfm.cells.file import CellFile
from scfm.head.annotation.label_layer import UNKNOWN
from scfm.head.base import OBS, Arrays, Head, Written
from scfm.io import require_space
from scfm.store.token_store import TokenStore

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger(__name__)
#: Share of cells without a name from which on a warning is due; calibration leaves about 5 % of known cells unnamed.
MANY = 0.3


def make_entries(
    head: Head, arrays: Arrays, key: str, about: Mapping[str, Any], source: str, obs: pd.DataFrame | None = None
) -> Written:
    """Everything that embedding adds to a file of cells.

    Args:
        head: of the checkpoint; the base class itself where there is none.
        arrays: ``embedding`` (n, D) and what the head predicted, NaN for cells without a known gene.
        key: of the embedding in ``obsm``; what the head reads has ``KEY_state``.
        about: plain values on where the embedding comes from; they stand in ``uns["scfm"][key]``.
        source: what the cells are called in a warning.
        obs: of the cells, of which the head may read columns (:attr:`Head.file_columns`).
    """
    empty = int(np.isnan(arrays["embedding"][:, 0]).sum())
    if empty:
        log.warning("%d cell(s) of %s have no gene that the model knows: their embedding is NaN.", empty, source)
    written = head.write({**arrays, **read_columns(head, obs)})
    warn_of_unknown(written.obs)
    state = {f"{key}_state": arrays["state"]} if "state" in arrays else {}
    record = {**about, "projections": list(written.obsm), **({"head": written.uns} if written.uns else {})}
    return Written(written.obs, {key: arrays["embedding"], **state, **written.obsm}, {"scfm": {key: record}})


def read_columns(head: Head, obs: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """``obs/NAME`` (n,) text of the columns that a head reads and the cells have, "" where missing."""
    if obs is None:
        return {}
    found = {}
    for name in head.file_columns:
        if name in obs:
            values = obs[name].astype(object)
            found[OBS + name] = np.where(values.isna(), "", values.astype(str)).astype(object)
    return found


def store_columns(head: Head, store: TokenStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The same of cells of a store."""
    have = [name for name in head.file_columns if name in store.columns]
    return read_columns(head, pd.DataFrame({name: _texts(store, name, rows) for name in have}))


def _texts(store: TokenStore, name: str, rows: np.ndarray) -> np.ndarray:
    values, names = store.obs(name)[rows], store.categories(name)
    return values.astype(object) if names is None else np.array([*names, ""], dtype=object)[values]


def warn_of_unknown(names: Mapping[str, np.ndarray]) -> None:
    """Say so where a head leaves many cells without a name; columns with a ``_guess`` beside them are names."""
    for name, values in names.items():
        share = float((values == UNKNOWN).mean()) if f"{name}_guess" in names else 0.0
        if share > MANY:
            log.warning(
                "%.0f%% of the cells are %r in obs[%r]: they look unlike the cells the head was calibrated on (other "
                "types, another technology); the likeliest class of each is in obs[%r].",
                100 * share, UNKNOWN, name, f"{name}_guess",
            )  # fmt: skip


def add_to_adata(adata: AnnData, entries: Written) -> None:
    """Put entries into an AnnData in memory; what else stands in ``uns["scfm"]`` stays."""
    for key, array in entries.obsm.items():
        adata.obsm[key] = np.asarray(array)
    for column, values in entries.obs.items():
        adata.obs[column] = _column(values, adata.obs.index)
    for name, records in entries.uns.items():
        adata.uns[name] = {**adata.uns.get(name, {}), **records}


def changed_adata(adata: AnnData, entries: Written, copy: bool) -> AnnData | None:
    """A copy of an AnnData with the entries where ``copy``; else None, and the AnnData itself has them."""
    changed = adata.copy() if copy else adata
    add_to_adata(changed, entries)
    return changed if copy else None


def add_to_file(path: Path, entries: Written) -> None:
    """Put entries into an .h5ad in place, without loading its matrix; all else stays as it is.

    Args:
        path: the file; ours, never the user's own.
        entries: in the order of the file's rows.
    """
    with h5py.File(path, "r+") as file:
        for group in ("obsm", "uns"):
            if group not in file:
                anndata.io.write_elem(file, group, {})
        for key, array in entries.obsm.items():
            anndata.io.write_elem(file["obsm"], key, np.asarray(array))
        for name, records in entries.uns.items():
            if name not in file["uns"]:
                anndata.io.write_elem(file["uns"], name, {})
            for key, value in records.items():
                anndata.io.write_elem(file["uns"][name], key, value)
        if entries.obs:
            table = anndata.io.read_elem(file["obs"])
            for column, values in entries.obs.items():
                table[column] = _column(values, table.index)
            anndata.io.write_elem(file, "obs", table)


def _column(values: np.ndarray, index: pd.Index) -> pd.Series:
    """A column of obs; text becomes categorical."""
    column = pd.Series(np.asarray(values), index=index)
    return column.astype("category") if column.dtype.kind in "OUT" else column


def is_h5ad(path: Path) -> bool:
    """Whether a file is an AnnData in HDF5, which a copy with further entries can be made of."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return {"obs", "var"} <= set(file.keys()) and "mod" not in file


def is_old(path: Path) -> bool:
    """Whether an .h5ad is of before AnnData 0.7: its tables are compound arrays, to which nothing can be added."""
    with h5py.File(path) as file:
        return any(isinstance(file.get(name), h5py.Dataset) for name in ("obs", "var", "obsm", "uns"))


def require_output(source: Path, output: Path, *, overwrite: bool, checkpoint: str | Path | None = None) -> None:
    """Refuse an output that is there, or is the input or the checkpoint.

    Raises:
        FileExistsError: the output is there, or is a folder, which no file replaces.
        ValueError: the output is the input, or the checkpoint.
    """
    if output.is_dir():
        better = output / f"{source.stem}_scfm.h5ad"
        raise FileExistsError(f"{output} is a folder; give the file to write, as output={better}")
    if checkpoint is not None and output.resolve() == Path(checkpoint).resolve():
        raise ValueError(f"output={output} is the checkpoint; choose another output=...")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another output=... or set overwrite=true")
    if output.resolve() == source.resolve():
        raise ValueError(f"output={output} is the input; the input is never modified, choose another output=...")


def require_room(cells: AnnData | Path, key: str) -> None:
    """Refuse, before any work, cells whose entries are in the way; say what will be replaced.

    Raises:
        ValueError: ``uns["scfm"]`` is something of the user's own.
    """
    if isinstance(cells, Path):
        if not is_h5ad(cells):
            return
        with h5py.File(cells) as file:
            uns, obsm = file.get("uns", {}), file.get("obsm", {})
            kind = type(uns["scfm"]).__name__ if isinstance(uns, Mapping) and "scfm" in uns else "Group"
            there = key in (obsm if isinstance(obsm, Mapping) else obsm.dtype.names or ())
    else:
        note = cells.uns.get("scfm", {})
        kind, there = "Group" if isinstance(note, Mapping) else type(note).__name__, key in cells.obsm
    if kind != "Group":
        raise ValueError(
            "uns['scfm'] of the cells holds something of your own, but it is where scfm says how an embedding was "
            "made: rename yours, adata.uns['my_note'] = adata.uns.pop('scfm')"
        )
    if there:
        log.warning("obsm[%r] was there already: it is replaced in the result; choose another key=... to keep it.", key)


def write_result(part: Path, source: Path, cells: CellFile, entries: Written) -> None:
    """The output of an embedding: a copy of an .h5ad with the entries, or a new .h5ad of any other kind of file.

    Args:
        part: where to write.
        source: the input; only read.
        cells: the same, open; its counts become X where a new file is made.
        entries: what to add.
    """
    if is_h5ad(source) and is_old(source):
        adata = anndata.read_h5ad(source)
        add_to_adata(adata, entries)
        adata.write_h5ad(part)
        return
    if is_h5ad(source):
        shutil.copyfile(source, part)
        require_space(part, _size(entries))
        add_to_file(part, entries)
        return
    counts = vstack([block.counts for block in cells.blocks(columns=())], format="csr")
    var = pd.DataFrame(index=pd.Index(cells.genes, name=None).astype(str))
    adata = anndata.AnnData(counts, obs=cells.obs.copy(), var=var)
    require_space(part, _size(entries) + 2 * (counts.data.nbytes + counts.indices.nbytes) + 1000 * adata.n_obs)
    add_to_adata(adata, entries)
    adata.write_h5ad(part)


def _size(entries: Written) -> int:
    """Bytes that entries take in a file, with room for what HDF5 writes beside them."""
    arrays = sum(np.asarray(array).nbytes for array in entries.obsm.values())
    columns = sum(int(pd.Series(values).memory_usage(deep=True)) for values in entries.obs.values())
    return 2 * (arrays + columns) + (1 << 20)
