"""Ranking of cells straight from CSR: exact, compiled, and without the GIL.

The order of a cell's tokens is defined on float64: value descending, equal values by ascending token id, and only then
truncated. What makes it fast changes nothing of that:

* counts are added up in a dense row of the vocabulary beside a bitmap of the touched tokens; reading the bitmap
  gives the tokens in ascending order, so every later step that is stable breaks ties as it should;
* positive float64 bits order like integers: the highest 22 bits of their range within the cell are sorted by two
  counting passes of 11 bits, and the few runs of equal keys are then put in order by all 64 bits;
* where a cell is longer than the limit, the first histogram tells which keys cannot reach it, and they are not sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from scipy.sparse import csr_matrix

from scfm.types import Ragged

_DIGIT = 10
_BUCKETS = 1 << _DIGIT
_LOW = np.uint64(_BUCKETS - 1)
_POSITION = np.uint64(16)
_AT = np.uint64(0xFFFF)
_HIGH = np.uint64(16 + _DIGIT)
_GAPS = np.array([701, 301, 132, 57, 23, 10, 4, 1])

_FINE, _NAN, _INFINITE, _NEGATIVE, _EMPTY, _BAD_TOTAL = range(6)
_FAULTS = {
    _NAN: "has a NaN among its counts",
    _INFINITE: "has an infinite count",
    _NEGATIVE: "has a negative count",
    _EMPTY: "has no counts at all (its total is 0)",
    _BAD_TOTAL: "has a given total that is not a positive finite number",
}


class CellError(ValueError):
    """A cell that cannot be ranked.

    Attributes:
        row: its row in the block that was given.
        reason: what is wrong, as the end of a sentence about the cell.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"the cell in row {row} {reason}; expected non-negative finite counts, at least one above 0")
        self.row = row
        self.reason = reason


class _Work(NamedTuple):
    """Scratch of one call, so that calls in several threads share nothing."""

    dense: np.ndarray
    words: np.ndarray
    values: np.ndarray
    medians: np.ndarray
    tokens: np.ndarray
    keys: np.ndarray
    other: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _work(size: int) -> _Work:
    return _Work(
        dense=np.zeros(size),
        words=np.zeros(size // 64 + 1, dtype=np.uint64),
        values=np.empty(size),
        medians=np.empty(size),
        tokens=np.empty(size, dtype=np.uint16),
        keys=np.empty(size, dtype=np.uint64),
        other=np.empty(size, dtype=np.uint64),
        low=np.zeros(_BUCKETS, dtype=np.int32),
        high=np.zeros(_BUCKETS, dtype=np.int32),
    )


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # error_model="numpy": a division may be vectorised; values are checked before. fastmath stays off: exact.
    return njit(nogil=True, cache=True, error_model="numpy")(function)


@intrinsic
def _trailing_zeros(context: Any, word: Any) -> Any:  # noqa: ARG001
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), code


@_compiled
def _check(data, start, stop):  # type: ignore[no-untyped-def]
    """A row's total over all columns, added in four lanes, and a fault."""
    a, b, c, d, least = 0.0, 0.0, 0.0, 0.0, 0.0
    k = start
    while k + 4 <= stop:
        p, q, r, s = np.float64(data[k]), np.float64(data[k + 1]), np.float64(data[k + 2]), np.float64(data[k + 3])
        a += p
        b += q
        c += r
        d += s
        least = min(least, min(min(p, q), min(r, s)))
        k += 4
    while k < stop:
        a += np.float64(data[k])
        least = min(least, np.float64(data[k]))
        k += 1
    total = (a + b) + (c + d)
    if not total < np.inf:
        return total, _NAN if total != total else _INFINITE
    if least < 0:
        return total, _NEGATIVE
    return total, _FINE if total > 0 else _EMPTY


@_compiled
def _take(indices, data, start, stop, columns, scales, values, medians, tokens):  # type: ignore[no-untyped-def]
    """Counts, medians and tokens of a row whose columns all have their own token; -1 where one is there twice."""
    n = np.uint64(0)
    before = np.int64(-1)
    ascending = True
    for k in range(start, stop):
        column = np.int64(indices[k])
        ascending &= column > before
        before = column
        token = columns[np.uint64(column)]
        values[n] = np.float64(data[k])
        medians[n] = scales[np.uint64(column)]
        tokens[n] = token
        n += np.uint64(token >= 0)
    return np.int64(n) if ascending else np.int64(-1)


@_compiled
def _add_up(indices, data, start, stop, columns, dense, words):  # type: ignore[no-untyped-def]
    """Add a row's counts by token, and mark the tokens."""
    for k in range(start, stop):
        token = columns[indices[k]]
        if token >= 0:
            dense[token] += np.float64(data[k])
            words[token >> 6] |= np.uint64(1) << np.uint64(token & 63)


@_compiled
def _collect(dense, words, scales, values, medians, tokens):  # type: ignore[no-untyped-def]
    """Marked tokens in ascending order with their counts; the scratch is zero again."""
    n = 0
    for w in range(len(words)):
        word = words[w]
        words[w] = 0
        while word:
            token = (w << 6) + np.int64(_trailing_zeros(word))
            word &= word - np.uint64(1)
            values[n] = dense[token]
            tokens[n] = token
            if len(scales):
                medians[n] = scales[token]
            dense[token] = 0.0
            n += 1
    return n


@_compiled
def _divide(values, medians, n, total):  # type: ignore[no-untyped-def]
    """((x / total) * 10000) / median in exactly this order."""
    for i in range(n):
        values[i] = values[i] / total * 10000.0 / medians[i]


@_compiled
def _least(values, n):  # type: ignore[no-untyped-def]
    least = np.inf
    for i in range(n):
        least = min(least, values[i])
    return least


@_compiled
def _drop_zeros(values, tokens, n):  # type: ignore[no-untyped-def]
    kept = 0
    for i in range(n):
        if values[i] > 0:
            values[kept] = values[i]
            tokens[kept] = tokens[i]
            kept += 1
    return kept


@_compiled
def _before(a, b, bits, tokens):  # type: ignore[no-untyped-def]
    """Whether key a comes before key b: value descending, then token id ascending."""
    i, j = a & _AT, b & _AT
    return bits[i] > bits[j] or (bits[i] == bits[j] and tokens[i] < tokens[j])


@_compiled
def _repair_run(keys, start, stop, bits, tokens):  # type: ignore[no-untyped-def]
    """Shell sort of a run of equal keys by value and token; an insertion sort where the run is short."""
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


@_compiled
def _repair(keys, n, bits, tokens):  # type: ignore[no-untyped-def]
    """Put every run of equal sorting keys in order."""
    i = 1
    while i < n:
        if keys[np.uint64(i)] >> _POSITION == keys[np.uint64(i - 1)] >> _POSITION:
            start = i - 1
            ordered = True
            while i < n and keys[i] >> _POSITION == keys[start] >> _POSITION:
                ordered &= not _before(keys[i], keys[i - 1], bits, tokens)
                i += 1
            if not ordered:
                _repair_run(keys, start, i, bits, tokens)
        i += 1


@_compiled
def _order(bits, n, limit, keys, other, low, high):  # type: ignore[no-untyped-def]
    """Sort positions by value; the first ``min(n, limit)`` of ``keys`` hold them in their lowest 16 bits."""
    highest, lowest = bits[0], bits[0]
    for i in range(n):
        highest = max(highest, bits[i])
        lowest = min(lowest, bits[i])
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


@_compiled
def _cut(keys, n, limit, high):  # type: ignore[no-untyped-def]
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
    return np.int64(kept)


@_compiled
def _sort(keys, other, n, low, high):  # type: ignore[no-untyped-def]
    """Two stable counting passes; the result is in ``keys``."""
    a, b = np.int32(0), np.int32(0)
    for d in range(_BUCKETS):
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


@_compiled
def _sorted_tokens(n, limit, work, out):  # type: ignore[no-untyped-def]
    """The ``n`` collected values' tokens, most expressed first, into ``out``; how many."""
    bits = work.values.view(np.int64)
    kept = _order(bits, n, limit, work.keys, work.other, work.low, work.high)
    _repair(work.keys, kept, bits, work.tokens)
    kept = min(kept, limit)
    for i in range(kept):
        out[i] = work.tokens[work.keys[i] & _AT]
    return kept


@_compiled
def _rank_cell(n, total, scaled, limit, work, out):  # type: ignore[no-untyped-def]
    """Divide where medians are used, leave zeros out, and sort."""
    if scaled:
        _divide(work.values, work.medians, n, total)
    if _least(work.values, n) <= 0:
        n = _drop_zeros(work.values, work.tokens, n)
    return _sorted_tokens(n, limit, work, out) if n else 0


@_compiled
def _rank_block(  # type: ignore[no-untyped-def]
    indptr, indices, data, columns, direct, medians, scales, totals, limit, prefix, suffix, work, out, offsets
):
    """Rank every row: (row, fault) of the first bad one, or (number of totals below their sum, 0)."""
    end, below = 0, 0
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        total, fault = _check(data, start, stop)
        if len(totals) and fault == _FINE:
            below += totals[row] < total
            total = totals[row]
            fault = _FINE if 0 < total < np.inf else _BAD_TOTAL
        if fault != _FINE:
            return row, fault
        n = -1
        if direct:
            n = _take(indices, data, start, stop, columns, scales, work.values, work.medians, work.tokens)
        if n < 0:
            _add_up(indices, data, start, stop, columns, work.dense, work.words)
            n = _collect(work.dense, work.words, medians, work.values, work.medians, work.tokens)
        n = _rank_cell(n, total, len(medians) > 0, limit, work, out[end + len(prefix) :])
        if n:
            out[end : end + len(prefix)] = prefix
            end += len(prefix) + n
            out[end : end + len(suffix)] = suffix
            end += len(suffix)
        offsets[row + 1] = end
    return below, _FINE


_NONE = np.empty(0)


def _work_size(counts: csr_matrix, n_tokens: int) -> int:
    """Entries that scratch must hold: a row before it is filtered, or the vocabulary; and a position is 16 bits."""
    longest = int(np.diff(counts.indptr).max(initial=0))
    return max(n_tokens, longest) + 1


def rank(
    counts: csr_matrix,
    columns: np.ndarray,
    n_tokens: int,
    limit: int,
    *,
    medians: np.ndarray | None = None,
    totals: np.ndarray | None = None,
    prefix: np.ndarray | None = None,
    suffix: np.ndarray | None = None,
) -> tuple[Ragged, int]:
    """Rank the genes of each cell.

    The value of token g is its count x, or ``((x / n) * 10000) / median`` with n the cell's total. Columns that meet
    on one token are summed in the order of the columns.

    Args:
        counts: (B, G) counts of any integer or float type; rows may be unsorted, with zeros and repeated columns.
        columns: (G,) int32, token id of each column, -1 to leave it out.
        n_tokens: V.
        limit: genes to keep of a cell.
        medians: (V,) float64 above 0, or None.
        totals: (B,) n of each cell over all its genes; None adds up the row.
        prefix, suffix: uint16 ids around each cell that is not empty.

    Returns:
        The cells' ids (uint16), empty where a cell has no gene with a token; and how many given totals are smaller
        than the sum of the row.

    Raises:
        CellError: a NaN, an infinite or negative count, or a total that is not above 0.
    """
    mapped = columns[columns >= 0]
    unique = len(np.unique(mapped)) == len(mapped)
    counts = _plain(counts, sort=not unique)
    prefix = np.empty(0, np.uint16) if prefix is None else prefix.astype(np.uint16)
    suffix = np.empty(0, np.uint16) if suffix is None else suffix.astype(np.uint16)
    # Ties among raw counts are long: there, tokens must come in ascending order, which the direct way does not give.
    direct = medians is not None and unique
    scales = np.where(columns >= 0, medians[columns], 1.0) if medians is not None and direct else _NONE
    longest = np.minimum(np.diff(counts.indptr), limit) + len(prefix) + len(suffix)
    ids = np.empty(int(longest.sum()), dtype=np.uint16)
    offsets = np.zeros(counts.shape[0] + 1, dtype=np.int64)
    row, fault = _rank_block(
        counts.indptr, counts.indices, counts.data, columns.astype(np.int32), direct,
        _NONE if medians is None else medians, scales, _NONE if totals is None else np.asarray(totals, np.float64),
        limit, prefix, suffix, _work(_work_size(counts, n_tokens)), ids, offsets,
    )  # fmt: skip
    if fault != _FINE:
        raise CellError(int(row), _FAULTS[fault])
    return Ragged(ids[: offsets[-1]], offsets), int(row)


def _plain(counts: csr_matrix, sort: bool) -> csr_matrix:
    """The same counts in a type that the kernel is compiled for; sorted rows where columns are summed as fractions."""
    if counts.data.dtype not in (np.float32, np.float64, np.int32, np.int64, np.uint16):
        counts = csr_matrix((counts.data.astype(np.float64), counts.indices, counts.indptr), shape=counts.shape)
    if sort and counts.data.dtype.kind == "f" and not counts.has_sorted_indices:
        counts = counts.sorted_indices()
    return counts
