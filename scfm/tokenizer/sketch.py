"""Quantiles of many streams at once, in bounded memory, mergeable: a histogram with bins of equal ratio.

A bin is named by the exponent and the first 7 bits of the mantissa of a float64, so its width is at most 1/128 of its
lower edge and its middle is within 1/256 of every value in it. Bins are kept in pages of 64, which are allocated when
a value falls into them. Adding is exact, so that neither order nor partition changes a result (compare Masson et al.,
"DDSketch", VLDB 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

_MANTISSA_BITS = 7
_LOWEST, _HIGHEST = -20, 14
_FIRST = (1023 + _LOWEST) << _MANTISSA_BITS
_BINS = (_HIGHEST - _LOWEST) << _MANTISSA_BITS
_PAGE_BITS = 6
_PAGE = 1 << _PAGE_BITS

#: A quantile is within this relative error of the exact one, for values between 2^-20 and 2^14; values outside count
#: as the nearest of the two.
RELATIVE_ERROR = 1 / 256


def find_bins(values: np.ndarray) -> np.ndarray:
    """(n,) int32, the bin of each positive value."""
    return _bins(values.view(np.int64), _FIRST, _BINS - 1)


def bin_centers(bins: np.ndarray) -> np.ndarray:
    """(n,) float64, the middle of each bin."""
    edges = (np.stack([bins, bins + 1]) + _FIRST) << (52 - _MANTISSA_BITS)
    return edges.view(np.float64).mean(axis=0)


@njit(nogil=True, cache=True)
def _sort_by_stream(rows: np.ndarray, bins: np.ndarray, n_streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Streams and bins in the order of streams: a stream's pages are then in the cache when they are counted."""
    starts = np.zeros(n_streams + 1, dtype=np.int64)
    for row in rows:
        starts[row + 1] += 1
    starts = starts.cumsum()
    sorted_rows, sorted_bins = np.empty_like(rows), np.empty_like(bins)
    for k in range(len(rows)):
        place = starts[rows[k]]
        starts[rows[k]] += 1
        sorted_rows[place] = rows[k]
        sorted_bins[place] = bins[k]
    return sorted_rows, sorted_bins


@njit(nogil=True, cache=True)
def _bins(bits: np.ndarray, first: int, last: int) -> np.ndarray:
    bins = np.empty(len(bits), dtype=np.int32)
    for k in range(len(bits)):
        bins[k] = min(max((bits[k] >> (52 - _MANTISSA_BITS)) - first, 0), last)
    return bins


@njit(nogil=True, cache=True)
def _open_pages(rows: np.ndarray, bins: np.ndarray, page_of: np.ndarray, n_pages: int) -> int:
    for k in range(len(rows)):
        if page_of[rows[k], bins[k] >> _PAGE_BITS] < 0:
            page_of[rows[k], bins[k] >> _PAGE_BITS] = n_pages
            n_pages += 1
    return n_pages


@njit(nogil=True, cache=True)
def _count(rows: np.ndarray, bins: np.ndarray, page_of: np.ndarray, pages: np.ndarray) -> None:
    for k in range(len(rows)):
        pages[page_of[rows[k], bins[k] >> _PAGE_BITS], bins[k] & (_PAGE - 1)] += 1


@dataclass
class Sketch:
    """Histograms of streams 0, 1, 2, ...

    Attributes:
        page_of: (streams, pages of a stream) int32, where a page is in ``pages``, -1 where it has no value.
        pages: (capacity, 64) int64 counts; the first ``n_pages`` are used.
    """

    page_of: np.ndarray = field(default_factory=lambda: np.empty((0, _BINS // _PAGE), dtype=np.int32))
    pages: np.ndarray = field(default_factory=lambda: np.zeros((0, _PAGE), dtype=np.int64))
    n_pages: int = 0

    def grow(self, n_streams: int) -> None:
        """Make room for more streams."""
        missing = n_streams - len(self.page_of)
        self.page_of = np.pad(self.page_of, ((0, missing), (0, 0)), constant_values=-1)

    def _reserve(self, n_pages: int) -> None:
        if n_pages > len(self.pages):
            grown = np.zeros((max(n_pages, 2 * len(self.pages)), _PAGE), dtype=np.int64)
            grown[: self.n_pages] = self.pages[: self.n_pages]
            self.pages = grown
        self.n_pages = n_pages

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Count positive values (n,) float64 of streams (n,) int32."""
        rows, bins = _sort_by_stream(rows, find_bins(values), len(self.page_of))
        self._reserve(_open_pages(rows, bins, self.page_of, self.n_pages))
        _count(rows, bins, self.page_of, self.pages)

    def merge(self, other: Sketch, streams: np.ndarray) -> None:
        """Add another sketch, whose stream i is ``streams[i]`` here."""
        theirs, page = np.nonzero(other.page_of >= 0)
        rows = streams[theirs]
        self._reserve(_open_pages(rows, page * _PAGE, self.page_of, self.n_pages))
        self.pages[self.page_of[rows, page]] += other.pages[other.page_of[theirs, page]]

    def medians(self) -> np.ndarray:
        """(streams,) float64, the mean of the two middle values where they are even; NaN where there is none."""
        medians = np.full(len(self.page_of), np.nan)
        for stream, pages in enumerate(self.page_of):
            used = np.flatnonzero(pages >= 0)
            if len(used):
                below = self.pages[pages[used]].ravel().cumsum()
                middle = np.array([(below[-1] - 1) // 2, below[-1] // 2])
                places = np.searchsorted(below, middle, side="right")
                medians[stream] = bin_centers(used[places // _PAGE] * _PAGE + places % _PAGE).mean()
        return medians
