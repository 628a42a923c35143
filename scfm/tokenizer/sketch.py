"""Quantiles of many streams at once, in bounded memory, mergeable: a histogram with bins of equal ratio.

A bin is named by the exponent and the first 7 bits of the mantissa of a float64, so its width is at most 1/128 of its
lower edge and its middle is within 1/256 of every value in it. Bins are kept in pages of 64, which are allocated when
a value falls into them. Adding is exact, so that neither order nor partition changes a result (compare Masson et al.,
"DDSketch", VLDB 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
def _count(rows: np.ndarray, bins: np.ndarray, counts: np.ndarray, page_of: np.ndarray, pages: np.ndarray) -> None:
    """Add the counts of bins to their pages; 1 each where none are given."""
    for k in range(len(rows)):
        pages[page_of[rows[k], bins[k] >> _PAGE_BITS], bins[k] & (_PAGE - 1)] += counts[k] if len(counts) else 1


@njit(nogil=True, cache=True)
def group_values(streams: np.ndarray, values: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
    """Write values to out, those of one stream together; ``starts``, the next place of each stream, moves on."""
    for k in range(len(streams)):
        out[starts[streams[k]]] = values[k]
        starts[streams[k]] += 1


@njit(nogil=True, cache=True)
def _count_used(page_of: np.ndarray, pages: np.ndarray) -> np.ndarray:
    """(streams,) int64, the bins of each stream that are not empty."""
    used = np.zeros(len(page_of), dtype=np.int64)
    for stream in range(page_of.shape[0]):
        for page in page_of[stream]:
            if page >= 0:
                for count in pages[page]:
                    used[stream] += count > 0
    return used


@njit(nogil=True, cache=True)
def _list_used(page_of: np.ndarray, pages: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> None:
    """Write the bins that are not empty, stream by stream and ascending, and their counts."""
    end = 0
    for stream in range(page_of.shape[0]):
        for i in range(page_of.shape[1]):
            if page_of[stream, i] >= 0:
                for k in range(_PAGE):
                    if pages[page_of[stream, i], k] > 0:
                        bins[end] = i * _PAGE + k
                        counts[end] = pages[page_of[stream, i], k]
                        end += 1


@njit(nogil=True, cache=True)
def _middle_bins(page_of: np.ndarray, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(streams,) int64 each, the bins of the two middle values of each stream, -1 where it has none."""
    low, high = np.full(len(page_of), -1), np.full(len(page_of), -1)
    for stream in range(page_of.shape[0]):
        total = 0
        for page in page_of[stream]:
            if page >= 0:
                total += pages[page].sum()
        below = 0
        for i in range(page_of.shape[1]):
            if total == 0 or page_of[stream, i] < 0:
                continue
            for k in range(_PAGE):
                below += pages[page_of[stream, i], k]
                if low[stream] < 0 and below > (total - 1) // 2:
                    low[stream] = i * _PAGE + k
                if high[stream] < 0 and below > total // 2:
                    high[stream] = i * _PAGE + k
    return low, high


@njit(nogil=True, cache=True)
def _middle_of_runs(
    runs: np.ndarray, starts: np.ndarray, sizes: np.ndarray, bins: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same of streams whose bins lie in runs: those of stream i are ``runs[i]`` to ``runs[i + 1]``."""
    low, high = np.full(len(runs) - 1, -1), np.full(len(runs) - 1, -1)
    histogram = np.zeros(_BINS, dtype=np.int64)
    for stream in range(len(runs) - 1):
        first, last, total = np.int64(_BINS), np.int64(-1), np.int64(0)
        for run in range(runs[stream], runs[stream + 1]):
            for k in range(starts[run], starts[run] + sizes[run]):
                count = np.int64(counts[k]) if len(counts) else np.int64(1)
                histogram[bins[k]] += count
                total += count
                first, last = min(first, np.int64(bins[k])), max(last, np.int64(bins[k]))
        below = 0
        for place in range(first, last + 1):
            below += histogram[place]
            histogram[place] = 0
            if low[stream] < 0 and below > (total - 1) // 2:
                low[stream] = place
            if high[stream] < 0 and below > total // 2:
                high[stream] = place
    return low, high


class _Group(NamedTuple):
    """Counts of bins by runs of one stream: ``streams`` and ``sizes`` (runs,), ``bins`` (n,), ``counts`` (n,) or ()."""

    streams: np.ndarray
    sizes: np.ndarray
    bins: np.ndarray
    counts: np.ndarray


#: Values that wait to be put into pages, at most: a page has 64 bins, of which a small corpus fills few.
WAITING = 1 << 25
_ONES = np.empty(0, dtype=np.uint32)


@dataclass
class Sketch:
    """Histograms of streams 0, 1, 2, ...

    Attributes:
        page_of: (streams, pages of a stream) int32, where a page is in ``pages``, -1 where it has no value.
        pages: (capacity, 64) int64 counts; the first ``n_pages`` are used.
        loose: streams and bins of values in any order, which wait to be put into pages.
        groups: bins that lie by stream, which wait too.
    """

    page_of: np.ndarray = field(default_factory=lambda: np.empty((0, _BINS // _PAGE), dtype=np.int32))
    pages: np.ndarray = field(default_factory=lambda: np.zeros((0, _PAGE), dtype=np.int64))
    n_pages: int = 0
    loose: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    groups: list[_Group] = field(default_factory=list)

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

    def add(self, rows: np.ndarray, values: np.ndarray, sizes: np.ndarray | None = None) -> None:
        """Count positive values (n,) float64 of streams (n,) int32; or (runs,), with the length of each run."""
        bins = find_bins(values).astype(np.uint16)
        if sizes is None:
            self.loose.append((rows.astype(np.int32), bins))
        else:
            self.groups.append(_Group(rows, sizes, bins, _ONES))
        self._limit_waiting()

    def merge(self, other: Sketch, streams: np.ndarray) -> None:
        """Add another sketch, whose stream i is ``streams[i]`` here."""
        self.loose += [(streams[rows], bins) for rows, bins in other.loose]
        self.groups += [group._replace(streams=streams[group.streams]) for group in other.groups]
        if other.n_pages:
            theirs, page = np.nonzero(other.page_of >= 0)
            rows = streams[theirs]
            self._reserve(_open_pages(rows, page * _PAGE, self.page_of, self.n_pages))
            self.pages[self.page_of[rows, page]] += other.pages[other.page_of[theirs, page]]
        self._limit_waiting()

    def _limit_waiting(self) -> None:
        if sum(len(bins) for _, bins in self.loose) + sum(len(group.bins) for group in self.groups) > WAITING:
            self.settle()

    def settle(self) -> None:
        """Put the values that wait into the pages."""
        self._sort_loose()
        for streams, sizes, bins, counts in self.groups:
            rows = np.repeat(streams, sizes)
            self._reserve(_open_pages(rows, bins, self.page_of, self.n_pages))
            _count(rows, bins, counts, self.page_of, self.pages)
        self.groups = []

    def _sort_loose(self) -> None:
        """Bring the values of each stream together: a stream's pages are then in the cache when they are counted."""
        if not self.loose:
            return
        sizes = np.zeros(len(self.page_of), dtype=np.int64)
        for rows, _ in self.loose:
            sizes += np.bincount(rows, minlength=len(sizes))
        bins, starts = np.empty(int(sizes.sum()), dtype=np.uint16), sizes.cumsum() - sizes
        for rows, own in self.loose:
            group_values(rows, own, starts, bins)
        self.groups.append(_Group(np.arange(len(sizes), dtype=np.int32), sizes, bins, _ONES))
        self.loose = []

    def medians(self) -> np.ndarray:
        """(streams,) float64, the mean of the two middle values where they are even; NaN where there is none."""
        self._sort_loose()
        if self.n_pages:
            self.settle()
            low, high = _middle_bins(self.page_of, self.pages)
        else:
            low, high = self._middle_of_groups()
        medians = (bin_centers(low) + bin_centers(high)) / 2
        return np.where(low >= 0, medians, np.nan)

    def _middle_of_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """The bins of the two middle values of each stream, where none is in a page."""
        n_streams = len(self.page_of)
        if not self.groups:
            return np.full(n_streams, -1), np.full(n_streams, -1)
        streams, sizes, bins = (np.concatenate([group[part] for group in self.groups]) for part in range(3))
        counts = _ONES
        if any(len(group.counts) for group in self.groups):
            ones = (group.counts if len(group.counts) else np.ones(len(group.bins), np.int64) for group in self.groups)
            counts = np.concatenate([*ones])
        order = np.argsort(streams, kind="stable")
        runs = np.searchsorted(streams[order], np.arange(n_streams + 1))
        return _middle_of_runs(runs, (sizes.cumsum() - sizes)[order], sizes[order], bins, counts)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Bins by stream: ``bins`` (n,) uint16, ``bin_counts`` (n,), or () where all are 1, ``n_bins`` (streams,)."""
        self._sort_loose()
        if not self.n_pages and len(self.groups) == 1 and len(self.groups[0].streams) == len(self.page_of):
            (group,) = self.groups
            return {"bins": group.bins, "bin_counts": group.counts, "n_bins": group.sizes}
        self.settle()
        n_bins = _count_used(self.page_of, self.pages)
        bins, counts = np.empty(int(n_bins.sum()), np.uint16), np.empty(int(n_bins.sum()), np.int64)
        _list_used(self.page_of, self.pages, bins, counts)
        small = counts.max(initial=0) <= np.iinfo(np.uint32).max
        return {"bins": bins, "bin_counts": counts.astype(np.uint32) if small else counts, "n_bins": n_bins}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Sketch:
        """The inverse of :meth:`to_dict`; also of an older form, the pages as they are."""
        if "pages" in state:
            return cls(state["page_of"].copy(), state["pages"].copy(), len(state["pages"]))
        n_bins = state["n_bins"]
        new = cls(groups=[_Group(np.arange(len(n_bins), dtype=np.int32), n_bins, state["bins"], state["bin_counts"])])
        new.grow(len(n_bins))
        return new
