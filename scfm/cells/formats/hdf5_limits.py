"""Refuse HDF5 files that take values from other files, or claim far more values than they hold."""

from __future__ import annotations

import math
from typing import Any

import h5py

#: Genes, peaks or transcripts of a file. The largest references have about 300,000 transcripts; atlases of peaks 1.2 M.
MAX_GENES = 2_000_000
#: Cells of a file: ten times the largest corpus.
MAX_CELLS = 1_000_000_000
#: Bytes of one chunk, which is always read whole.
MAX_CHUNK = 1 << 30
#: A dataset that is read whole and has more bytes than the first may have this many bytes for each stored one.
LARGE, MAX_RATIO = 1 << 28, 200


def require_own_data(file: h5py.File) -> None:
    """Refuse a file whose values lie in other files, or whose few bytes decompress to more than memory holds.

    Values that are read block by block (obs columns, ``data`` and ``indices`` of a matrix) may be of any number.

    Raises:
        ValueError: naming the dataset or link.
    """

    def find_link(name: bytes, info: Any) -> str | None:
        """The name of a link to another file; None goes on to the next."""
        return name.decode(errors="replace") if info.type == h5py.h5l.TYPE_EXTERNAL else None

    linked = file.id.links.visit(find_link, info=True)
    if linked is not None:
        raise ValueError(f"is not safe: its {linked} is a link to another file; write the values into this one")

    def find_fault(name: str, item: Any) -> str | None:
        """The fault of a dataset; None goes on to the next."""
        return _fault(name, item) if isinstance(item, h5py.Dataset) else None

    fault = file.visititems(find_fault)
    if fault is not None:
        raise ValueError(f"is not safe: {fault}")


def _fault(name: str, dataset: h5py.Dataset) -> str | None:
    if dataset.external or dataset.is_virtual:
        return f"the values of its {name} lie in another file; write them into this one"
    size, stored = dataset.size or 0, dataset.id.get_storage_size()
    claimed = size * dataset.dtype.itemsize
    if _chunk_bytes(dataset) > MAX_CHUNK:
        return f"its {name} has chunks of {_chunk_bytes(dataset) / 1e9:.1f} GB; write it in chunks of at most 1 GB"
    parent, _, last = name.rpartition("/")
    in_blocks = dataset.ndim != 1 or last in ("data", "indices") or parent.rpartition("/")[2] in ("obs", "col_attrs")
    if not in_blocks and claimed > LARGE and claimed > MAX_RATIO * stored:
        return f"its {name} claims {claimed / 1e6:,.0f} MB of values and holds {stored / 1e6:,.1f} MB"
    return None


def _chunk_bytes(array: Any) -> int:
    return int(array.dtype.itemsize * math.prod(array.chunks)) if array.chunks else 0


def require_small_chunks(array: Any) -> None:
    """Refuse an array, of zarr above all, whose chunks do not fit into memory: a chunk is read whole.

    Raises:
        ValueError: naming the array.
    """
    if _chunk_bytes(array) > MAX_CHUNK:
        raise ValueError(
            f"its {array.name} has chunks of {_chunk_bytes(array) / 1e9:.1f} GB; write it in chunks of at most 1 GB"
        )


def require_size(n_cells: int, n_genes: int, where: str) -> None:
    """Refuse a matrix of more cells or genes than any real file has.

    Args:
        n_cells: rows.
        n_genes: columns.
        where: the matrix, for the message.

    Raises:
        ValueError: naming what it claims.
    """
    if not 0 <= n_genes <= MAX_GENES:
        raise ValueError(f"its {where} claims {n_genes:,} genes; at most {MAX_GENES:,} can be read")
    if not 0 <= n_cells <= MAX_CELLS:
        raise ValueError(f"its {where} claims {n_cells:,} cells; at most {MAX_CELLS:,} can be read")
