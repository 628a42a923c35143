"""Exact descending order of positive float64 values, compiled.

The bits of positive floats order like integers. A key of 32 bits holds a value's distance from the highest, coarsened
to at most 20 bits, above the value's position. Keys are sorted by two stable counting passes of 10 bits, and the few
runs of equal distances are then put in order by the float64 values and the token id. Where a cell is longer than the
limit, the first histogram tells which keys cannot reach it, and they are not sorted.

The bits may be those of a float32 product that is a few units off: then distances that differ by less than twice that
error are one run as well (``slack``), and only its members are divided exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

_DIGIT = np.uint32(10)
BUCKETS = 1 << 10
_LOW = np.uint32(BUCKETS - 1)
_GAPS = np.array([701, 301, 132, 57, 23, 10, 4, 1])

#: Keys looked at together for equal neighbours: without a branch, so that the comparison is vectorised.
_STRETCH = 64


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


class Exact(NamedTuple):
    """What the exact values of a cell come from.

    Attributes:
        values: (n,) float64, by position; counts that are still to be divided where ``medians`` is not empty.
        tokens: (n,) their tokens.
        medians: (V,) of the tokens, or empty: then ``values`` are final.
        total: counts of the cell.
    """

    values: np.ndarray
    tokens: np.ndarray
    medians: np.ndarray
    total: float


@compiled
def divide(exact: Exact, i: int) -> None:
    """((x / total) * 10000) / median in exactly this order, in place."""
    exact.values[i] = exact.values[i] / exact.total * 10000.0 / exact.medians[exact.tokens[i]]


@compiled
def _before(a: np.uint32, b: np.uint32, at: np.uint32, exact: Exact) -> bool:
    """Whether key a comes before key b: value descending, then token id ascending."""
    i, j = a & at, b & at
    one, other = exact.values[i], exact.values[j]
    return one > other or (one == other and exact.tokens[i] < exact.tokens[j])


@compiled
def _repair_run(keys: np.ndarray, start: int, stop: int, at: np.uint32, exact: Exact) -> None:
    """Shell sort of a run by value and token, unless it is in order; short runs: an insertion sort."""
    if len(exact.medians):
        for i in range(start, stop):
            divide(exact, keys[i] & at)
    ordered = True
    for i in range(start + 1, stop):
        ordered &= not _before(keys[i], keys[i - 1], at, exact)
    if ordered:
        return
    for gap in _GAPS:
        if gap > 1 and gap * 3 > stop - start:
            continue
        for i in range(start + gap, stop):
            key = keys[i]
            j = i
            while j >= start + gap and _before(key, keys[j - gap], at, exact):
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key


@compiled
def repair(keys: np.ndarray, n: int, position: np.uint32, slack: np.uint32, exact: Exact) -> None:
    """Put every run of sorting keys at most ``slack`` apart in order; ``position`` bits of a key are its position."""
    i = 1
    while i < n:
        stop = min(n, i + _STRETCH)
        close = 0
        for k in range(np.uint64(i), np.uint64(stop)):
            close += (keys[k] >> position) - (keys[k - np.uint64(1)] >> position) <= slack
        i = _repair_runs(keys, i - 1, stop, n, position, slack, exact) if close else stop


@compiled
def _repair_runs(
    keys: np.ndarray, start: int, stop: int, n: int, position: np.uint32, slack: np.uint32, exact: Exact
) -> int:
    """Repair the runs that begin from ``start`` to ``stop``; the position after the last key looked at."""
    at = (np.uint32(1) << position) - np.uint32(1)
    while start < stop:
        end = start + 1
        while end < n and (keys[end] >> position) - (keys[end - 1] >> position) <= slack:
            end += 1
        if end - start > 1:
            _repair_run(keys, start, end, at, exact)
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
    error: int,
    keys: np.ndarray,
    other: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[int, np.uint32, np.uint32]:
    """Sort positions by value, at least the first ``min(n, limit)``.

    Args:
        bits: (n,) of positive floats.
        n: how many.
        highest: of the bits.
        lowest: of the bits.
        limit: how many of the first matter.
        error: by how much two values in wrong order may differ in their bits; 0 for exact ones.
        keys: scratch; the sorted keys.
        other: scratch.
        low: scratch.
        high: scratch.

    Returns:
        Number of keys, bits of a key that are its position, and how far apart the keys of one run may lie.
    """
    position = place(n)
    assert position < 32
    width = np.uint64(min(2 * _DIGIT, np.uint32(32) - position))
    shift = np.uint64(0)
    while np.uint64(highest - lowest) >> shift >> width:
        shift += np.uint64(1)
    slack = np.uint32(0) if error == 0 else np.uint32((np.uint64(error) >> shift) + np.uint64(1))
    low[:] = 0
    high[:] = 0
    for i in range(np.uint64(n)):
        keys[i] = np.uint32((np.uint64(highest - bits[i]) >> shift) << np.uint64(position)) | np.uint32(i)
    for i in range(np.uint64(n)):
        high[keys[i] >> (position + _DIGIT)] += np.int32(1)
    if n > limit:
        n = _cut(keys, n, limit, position, slack, high)
    for i in range(np.uint64(n)):
        low[(keys[i] >> position) & _LOW] += np.int32(1)
    _sort(keys, other, n, position, low, high)
    return n, position, slack


@compiled
def _cut(keys: np.ndarray, n: int, limit: int, position: np.uint32, slack: np.uint32, high: np.ndarray) -> int:
    """Keep the keys whose high digit can still be among the first ``limit``, and those within ``slack`` of them."""
    last, before = 0, 0
    while before + high[last] < limit:
        before += high[last]
        last += 1
    high[last:] = 0
    end = (np.uint64(last + 1) << np.uint64(_DIGIT)) + np.uint64(slack)
    kept = np.uint64(0)
    for i in range(np.uint64(n)):
        key = keys[i]
        keys[kept] = key
        digit = key >> (position + _DIGIT)
        inside = np.uint64(key >> position) < end
        if inside and digit >= last:
            high[digit] += np.int32(1)
        kept += np.uint64(inside)
    return np.int64(kept)  # type: ignore[return-value]


@compiled
def _sort(keys: np.ndarray, other: np.ndarray, n: int, position: np.uint32, low: np.ndarray, high: np.ndarray) -> None:
    """Two stable counting passes; the result is in ``keys``."""
    a, b = np.int32(0), np.int32(0)
    for d in range(BUCKETS):
        low[d], a = a, a + low[d]
        high[d], b = b, b + high[d]
    for i in range(np.uint64(n)):
        key = keys[i]
        d = (key >> position) & _LOW
        to = low[d]
        other[np.uint32(to)] = key
        low[d] = to + np.int32(1)
    for i in range(np.uint64(n)):
        key = other[i]
        d = key >> (position + _DIGIT)
        to = high[d]
        keys[np.uint32(to)] = key
        high[d] = to + np.int32(1)
