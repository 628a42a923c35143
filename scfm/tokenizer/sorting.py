"""Exact descending order of positive float64 values, compiled.

Positive float64 bits order like integers. A key of 32 bits holds a value's distance from the highest, coarsened to at
most 20 bits, above the value's position. Keys are sorted by two stable counting passes of 10 bits, and the few runs of
equal distances are then put in order by all 64 bits and the token id. Where a cell is longer than the limit, the first
histogram tells which keys cannot reach it, and they are not sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

_DIGIT = np.uint32(10)
BUCKETS = 1 << 10
_LOW = np.uint32(BUCKETS - 1)
_HALF = np.uint64(32)
_HIGH_ONE = np.uint64(1 << 32)
_LOW_HALF = np.uint64((1 << 32) - 1)
_GAPS = np.array([701, 301, 132, 57, 23, 10, 4, 1])

#: Keys compared together with their neighbors: without a branch, so that the comparison is vectorized.
_STRETCH = 16


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile without the GIL, keep it on disk, and never trade exactness for speed (no fastmath)."""
    return njit(nogil=True, cache=True, error_model="numpy")(function)


@compiled
def place(n: int) -> np.uint32:
    """Bits of a key that hold the position among ``n`` values."""
    bits = np.uint32(1)
    while (n - 1) >> bits:
        bits += np.uint32(1)
    return bits


@compiled
def _precedes(a: np.uint32, b: np.uint32, mask: np.uint32, bits: np.ndarray, tokens: np.ndarray) -> bool:
    """Whether key a comes before key b: value descending, then token id ascending."""
    i, j = a & mask, b & mask
    return bits[i] > bits[j] or (bits[i] == bits[j] and tokens[i] < tokens[j])


@compiled
def _repair_run(keys: np.ndarray, start: int, stop: int, mask: np.uint32, bits: np.ndarray, tokens: np.ndarray) -> None:
    """Shell sort of a run of equal keys by value and token, unless it is in order; short runs: an insertion sort."""
    ordered = True
    for i in range(start + 1, stop):
        ordered &= not _precedes(keys[i], keys[i - 1], mask, bits, tokens)
    if ordered:
        return
    for gap in _GAPS:
        if gap > 1 and gap * 3 > stop - start:
            continue
        for i in range(start + gap, stop):
            key = keys[i]
            j = i
            while j >= start + gap and _precedes(key, keys[j - gap], mask, bits, tokens):
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key


@compiled
def repair(keys: np.ndarray, n: int, mask: np.uint32, bits: np.ndarray, tokens: np.ndarray) -> None:
    """Put every run of equal sorting keys in order; ``mask`` selects the position in a key."""
    i = 1
    while i < n:
        stop = min(n, i + _STRETCH)
        equal = 0
        for k in range(np.uint64(i), np.uint64(stop)):
            equal += (keys[k] ^ keys[k - np.uint64(1)]) <= mask
        i = _repair_runs(keys, i - 1, stop, n, mask, bits, tokens) if equal else stop


@compiled
def _repair_runs(
    keys: np.ndarray, start: int, stop: int, n: int, mask: np.uint32, bits: np.ndarray, tokens: np.ndarray
) -> int:
    """Repair the runs that begin from ``start`` to ``stop``; the position after the last key looked at."""
    while start > 0 and (keys[start] ^ keys[start - 1]) <= mask:
        start -= 1
    while start < stop:
        end = start + 1
        while end < n and (keys[end] ^ keys[start]) <= mask:
            end += 1
        if end - start > 1:
            _repair_run(keys, start, end, mask, bits, tokens)
        start = end
    return start


@compiled
def span(bits: np.ndarray, n: int) -> tuple[int, int]:
    """Highest and lowest of the first ``n`` values' bits."""
    highest, lowest = bits[0], bits[0]
    for i in range(n):
        highest = max(highest, bits[i])
        lowest = min(lowest, bits[i])
    return highest, lowest


@compiled
def order(
    bits: np.ndarray,
    n: int,
    highest: int,
    lowest: int,
    limit: int,
    keys: np.ndarray,
    other: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Sort positions by value; the lowest :func:`place` bits of the first ``min(n, limit)`` keys hold them."""
    position = place(n)
    assert position < 32
    width = np.uint64(min(2 * _DIGIT, np.uint32(32) - position))
    shift = np.uint64(0)
    while np.uint64(highest - lowest) >> shift >> width:
        shift += np.uint64(1)
    for i in range(np.uint64(n)):
        keys[i] = np.uint32((np.uint64(highest - bits[i]) >> shift) << np.uint64(position)) | np.uint32(i)
    _count(keys, n, position, counts)
    if n > limit:
        n = _cut(keys, n, limit, position, counts)
        _count(keys, n, position, counts)
    _sort(keys, other, n, position, counts)
    return n


@compiled
def _count(keys: np.ndarray, n: int, position: np.uint32, counts: np.ndarray) -> None:
    """Histograms of both digits in one array: of the low digit in the low half of each word, of the high in the high.

    One pass over the array then turns both into places.
    """
    counts[:] = 0
    for i in range(np.uint64(n)):
        key = keys[i] >> position
        counts[key >> _DIGIT] += _HIGH_ONE
        counts[key & _LOW] += np.uint64(1)


@compiled
def _cut(keys: np.ndarray, n: int, limit: int, position: np.uint32, counts: np.ndarray) -> int:
    """Keep the keys whose high digit can still be among the first ``limit``."""
    last, total = 0, np.int64(counts[0] >> _HALF)
    while total < limit:
        last += 1
        total += np.int64(counts[last] >> _HALF)
    kept = np.uint64(0)
    for i in range(np.uint64(n)):
        key = keys[i]
        keys[kept] = key
        kept += np.uint64(key >> (position + _DIGIT) <= last)
    return np.int64(kept)  # type: ignore[return-value]


@compiled
def _sort(keys: np.ndarray, other: np.ndarray, n: int, position: np.uint32, counts: np.ndarray) -> None:
    """Two stable counting passes; the result is in ``keys``."""
    total = np.uint64(0)
    for d in range(BUCKETS):
        counts[d], total = total, total + counts[d]
    for i in range(np.uint64(n)):
        key = keys[i]
        d = (key >> position) & _LOW
        target = counts[d]
        other[target & _LOW_HALF] = key
        counts[d] = target + np.uint64(1)
    for i in range(np.uint64(n)):
        key = other[i]
        d = key >> (position + _DIGIT)
        target = counts[d]
        keys[target >> _HALF] = key
        counts[d] = target + _HIGH_ONE
