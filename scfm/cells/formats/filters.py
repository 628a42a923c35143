"""Compression filters of HDF5 that are not part of it."""

from __future__ import annotations

import importlib.util

import h5py

#: Names of registered filters (https://portal.hdfgroup.org/documentation/hdf5-docs/registered_filter_plugins.html).
NAMES = {
    4: "szip",
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32026: "blosc2",
}

#: Parts of a file that are not read for cells.
OTHER_PARTS = ("uns/", "obsm/", "obsp/", "varm/", "varp/")


def require_filters(file: h5py.File) -> None:
    """Make the filters of a file available, from the package hdf5plugin where it is installed.

    Raises:
        ValueError: a filter is missing; names it, the part of the file and the package.
    """
    missing = missing_filters(file)
    if missing and importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")  # which registers its filters
        missing = missing_filters(file)
    if missing:
        part, name = next(iter(missing.items()))
        raise ValueError(
            f"is compressed with the filter {name!r} (its {part}), which this HDF5 does not have; install it (pip "
            "install hdf5plugin), or write the file again with compression='gzip'"
        )


def missing_filters(file: h5py.File) -> dict[str, str]:
    """Parts of the file that need a filter that is not available, and its name."""
    missing: dict[str, str] = {}

    def check(name: str, element: h5py.Group | h5py.Dataset) -> None:
        """Note the dataset where a filter is missing."""
        if isinstance(element, h5py.Dataset) and not name.startswith(OTHER_PARTS):
            created = element.id.get_create_plist()
            for number in range(created.get_nfilters()):
                code, _, _, called = created.get_filter(number)
                if not h5py.h5z.filter_avail(code):
                    missing[name] = NAMES.get(code) or called.decode(errors="replace") or f"number {code}"

    file.visititems(check)
    return missing
