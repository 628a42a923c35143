"""One row of a CSR matrix -> tokens and counts, compiled; and the faults that a row may have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from scfm.tokenizer.sorting import compiled

FINE, NAN, INFINITE, NEGATIVE, EMPTY, BAD_TOTAL = range(6)


@intrinsic
def _trailing_zeros(context: Any, word: Any) -> Any:
    """Number of zero bits below the lowest one of a word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """The LLVM instruction."""
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), codegen


@compiled
def check(data: np.ndarray, start: int, stop: int) -> tuple[float, int]:
    """A row's total over all columns, added in four lanes, and a fault. Loops without a branch are vectorized."""
    row = data[start:stop]
    a, b, c, d, negative = 0.0, 0.0, 0.0, 0.0, False
    whole = row.size // 4 * 4
    for k in range(0, whole, 4):
        a += np.float64(row[k])
        b += np.float64(row[k + 1])
        c += np.float64(row[k + 2])
        d += np.float64(row[k + 3])
    for k in range(whole, row.size):
        a += np.float64(row[k])
    for k in range(row.size):
        negative |= row[k] < 0
    total = (a + b) + (c + d)
    if not total < np.inf:
        return total, NAN if total != total else INFINITE
    if negative:
        return total, NEGATIVE
    return total, FINE if total > 0 else EMPTY


#: Values that are divided at a time, while they and their medians are still in the nearest cache.
_STRETCH = np.uint64(32)


@compiled
def take(
    indices: np.ndarray,
    data: np.ndarray,
    start: int,
    stop: int,
    columns: np.ndarray,
    scales: np.ndarray,
    total: float,
    values: np.ndarray,
    medians: np.ndarray,
    tokens: np.ndarray,
) -> int:
    """Read tokens and scaled counts of a row whose columns ascend, each with its own token; -1 for another row."""
    n, k, end = np.uint64(0), np.uint64(start), np.uint64(stop)  # unsigned: no test for a negative index
    previous = np.int64(-1)
    ascending: bool | np.bool_ = True
    while k < end:
        first, stretch_end = n, min(k + _STRETCH, end)
        while k < stretch_end:
            column = np.int64(indices[k])
            ascending &= column > previous
            previous = column
            token = columns[np.uint64(column)]
            values[n] = np.float64(data[k])
            medians[n - first] = scales[np.uint64(column)]
            tokens[n] = token
            n += np.uint64(token >= 0)
            k += np.uint64(1)
        scale(values[first:n], medians, total)
    return np.int64(n) if ascending else np.int64(-1)  # type: ignore[return-value]


@compiled
def take_shared(
    indices: np.ndarray,
    data: np.ndarray,
    start: int,
    stop: int,
    shared: np.ndarray,
    scales: np.ndarray,
    total: float,
    dense: np.ndarray,
    values: np.ndarray,
    medians: np.ndarray,
    tokens: np.ndarray,
    n: int,
) -> int:
    """Add the tokens that several columns have (``shared``, (G,), else -1) to the ``n`` of :func:`take`.

    A file has few such columns. ``dense`` is zero before and after.
    """
    first = n
    for k in range(start, stop):
        token = shared[indices[k]]
        if token >= 0 and data[k] > 0:
            if dense[token] == 0:
                tokens[n] = token
                n += 1
            dense[token] += np.float64(data[k])
    for i in range(first, n):
        values[i] = dense[tokens[i]]
        medians[i - first] = scales[tokens[i]]
        dense[tokens[i]] = 0.0
    scale(values[first:n], medians, total)
    return n


@compiled
def scale(values: np.ndarray, medians: np.ndarray, total: float) -> None:
    """((x / total) * 10000) / median in exactly this order."""
    for i in range(len(values)):
        values[i] = values[i] / total * 10000.0 / medians[i]


@compiled
def add_up(
    indices: np.ndarray,
    data: np.ndarray,
    start: int,
    stop: int,
    columns: np.ndarray,
    dense: np.ndarray,
    words: np.ndarray,
) -> None:
    """Add a row's counts by token, and mark the tokens."""
    for k in range(start, stop):
        token = columns[indices[k]]
        if token >= 0:
            dense[token] += np.float64(data[k])
            words[token >> 6] |= np.uint64(1) << np.uint64(token & 63)


@compiled
def collect(
    dense: np.ndarray,
    words: np.ndarray,
    scales: np.ndarray,
    values: np.ndarray,
    medians: np.ndarray,
    tokens: np.ndarray,
) -> int:
    """Read the marked tokens in ascending order with their counts, and set the scratch memory back to zero."""
    n = 0
    for w in range(len(words)):
        word = words[w]
        words[w] = 0
        while word:
            token = (w << 6) + np.int64(_trailing_zeros(word))  # type: ignore[call-arg]
            word &= word - np.uint64(1)
            values[n] = dense[token]
            tokens[n] = token
            if len(scales):
                medians[n] = scales[token]
            dense[token] = 0.0
            n += 1
    return n
