"""Exact descending order of positive float64 values, compiled.

Positive float64 bits order like integers: the highest 20 bits of their range within the cell are sorted by two stable
counting passes of 10 bits, and the few runs of equal keys are then put in order by all 64 bits and the token id. Where
a cell is longer than the limit, the first histogram tells which keys cannot reach it, and they are not sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

_DIGIT = 10
BUCKETS = 1 << _DIGIT
_LOW = np.uint64(BUCKETS - 1)
_POSITION = np.uint64(16)
_HIGH = np.uint64(16 + _DIGIT)
_GAPS = np.array([701, 301, 132, 57, 23, 10, 4, 1])

#: The position of a value in a key: its lowest 16 bits.
AT = np.uint64(0xFFFF)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile without the GIL, keep it on disk, and never trade exactness for speed (no fastmath)."""
    return njit(nogil=True, cache=True, error_model="numpy")(function)


@compiled
def _before(a: np.uint64, b: np.uint64, bits: np.ndarray, tokens: np.ndarray) -> bool:
    """Whether key a comes before key b: value descending, then token id ascending."""
    i, j = a & AT, b & AT
    return bits[i] > bits[j] or (bits[i] == bits[j] and tokens[i] < tokens[j])


@compiled
def _repair_run(keys: np.ndarray, start: int, stop: int, bits: np.ndarray, tokens: np.ndarray) -> None:
    """Shell sort of a run of equal keys by value and token, unless it is in order; short runs: an insertion sort."""
    ordered = True
    for i in range(start + 1, stop):
        ordered &= not _before(keys[i], keys[i - 1], bits, tokens)
    if ordered:
        return
    for gap in _GAPS:
        if gap > 1 and gap * 3 > stop - start:
            continue
        for i in range(start + gap, stop):
            key = keys[i]
            j = i
            while j >= start + gap and _before(key, keys[j - gap], bits, tokens):
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key


@compiled
def repair(keys: np.ndarray, n: int, bits: np.ndarray, tokens: np.ndarray) -> None:
    """Put every run of equal sorting keys in order."""
    before = keys[0] >> _POSITION
    start = 0
    for i in range(1, n):
        digits = keys[np.uint64(i)] >> _POSITION
        if digits == before:
            continue
        if i - start > 1:
            _repair_run(keys, start, i, bits, tokens)
        before = digits
        start = i
    if n - start > 1:
        _repair_run(keys, start, n, bits, tokens)


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
    low: np.ndarray,
    high: np.ndarray,
) -> int:
    """Sort positions by value; the first ``min(n, limit)`` of ``keys`` hold them in their lowest 16 bits."""
    shift = np.uint64(0)
    while np.uint64(highest - lowest) >> shift >= np.uint64(1 << (2 * _DIGIT)):
        shift += np.uint64(1)
    low[:] = 0
    high[:] = 0
    for i in range(n):
        keys[i] = ((np.uint64(highest - bits[i]) >> shift) << _POSITION) | np.uint64(i)
    for i in range(n):
        high[keys[i] >> _HIGH] += np.int32(1)
    if n > limit:
        n = _cut(keys, n, limit, high)
    for i in range(n):
        low[(keys[i] >> _POSITION) & _LOW] += np.int32(1)
    _sort(keys, other, n, low, high)
    return n


@compiled
def _cut(keys: np.ndarray, n: int, limit: int, high: np.ndarray) -> int:
    """Keep the keys whose high digit can still be among the first ``limit``."""
    last, before = 0, 0
    while before + high[last] < limit:
        before += high[last]
        last += 1
    high[last + 1 :] = 0
    beyond = np.uint64(last + 1) << _HIGH
    kept = np.uint64(0)
    for i in range(n):
        key = keys[i]
        keys[kept] = key
        kept += np.uint64(key < beyond)
    return np.int64(kept)  # type: ignore[return-value]


@compiled
def _sort(keys: np.ndarray, other: np.ndarray, n: int, low: np.ndarray, high: np.ndarray) -> None:
    """Two stable counting passes; the result is in ``keys``."""
    a, b = np.int32(0), np.int32(0)
    for d in range(BUCKETS):
        low[d], a = a, a + low[d]
        high[d], b = b, b + high[d]
    for i in range(n):
        key = keys[i]
        d = (key >> _POSITION) & _LOW
        place = low[d]
        other[np.uint64(place)] = key
        low[d] = place + np.int32(1)
    for i in range(n):
        key = other[i]
        d = key >> _HIGH
        place = high[d]
        keys[np.uint64(place)] = key
        high[d] = place + np.int32(1)
