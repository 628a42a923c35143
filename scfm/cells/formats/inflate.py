"""Slices of long one-dimensional HDF5 datasets, decompressed by a fast library where one is installed.

HDF5 inflates with zlib, which is two to three times slower than libdeflate (package ``deflate``) and isal. Where gzip
is the dataset's only filter, its chunks are read without h5py's filter and inflated here, outside the lock of h5py
and of Python, so that threads help; every other dataset goes through h5py (or zarr, which has its own fast codecs).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import h5py
import numpy as np

#: ``inflate(compressed, size)`` -> the ``size`` bytes.
Inflate = Callable[[bytes, int], Any]


@cache
def inflater() -> Inflate | None:
    """The fastest installed library: ``deflate`` (libdeflate), else ``isal``, else None."""
    try:
        from deflate import zlib_decompress

        return zlib_decompress
    except ImportError:
        pass
    try:
        from isal.isal_zlib import decompress

        return lambda compressed, size: decompress(compressed, bufsize=size)
    except ImportError:
        return None


class Slices:
    """Slices of one dataset, meant to be read in ascending order by one thread.

    The chunk that a slice ends in is kept, so that the next slice does not inflate it again.

    Args:
        dataset: one-dimensional, of h5py or zarr.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.inflate = inflater() if gzip_only(dataset) else None
        self._last: tuple[int, np.ndarray] | None = None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Entries ``start`` to ``stop``, (stop - start,).

        Raises:
            OSError: a chunk cannot be read or inflated.
        """
        if self.inflate is None:
            return self.dataset[start:stop]
        size = self.dataset.chunks[0]
        entries = np.empty(stop - start, dtype=self.dataset.dtype)
        for number in range(start // size, -(-stop // size)):
            chunk = self._chunk(number, size)
            first = number * size
            low, high = max(start, first), min(stop, first + size)
            entries[low - start : high - start] = chunk[low - first : high - first]
        return entries

    def _chunk(self, number: int, size: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            self._last = (number, self._inflate_chunk(number, size))
        return self._last[1]

    def _inflate_chunk(self, number: int, size: int) -> np.ndarray:
        assert self.inflate is not None
        first = number * size
        mask, raw = self.dataset.id.read_direct_chunk((first,))
        dtype = self.dataset.dtype
        try:
            # a mask says that this chunk was stored without the filter
            chunk = np.frombuffer(raw if mask else self.inflate(raw, size * dtype.itemsize), dtype=dtype)
        except Exception as error:  # each library raises its own class
            raise OSError(f"chunk {number} of {self.dataset.name} cannot be inflated: {error}") from error
        if len(chunk) != size:
            raise OSError(f"chunk {number} of {self.dataset.name} has {len(chunk)} entries, expected {size}")
        return chunk


def gzip_only(dataset: Any) -> bool:
    """Whether this is an HDF5 dataset of numbers in chunks whose one filter is gzip."""
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None or dataset.ndim != 1:
        return False
    filters = dataset.id.get_create_plist()
    numbers = dataset.dtype.kind in "iuf" and not dataset.is_virtual
    return numbers and filters.get_nfilters() == 1 and filters.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
