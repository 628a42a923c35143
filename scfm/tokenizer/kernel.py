"""Ranking of cells straight from CSR: exact, compiled, and without the GIL.

The order of a cell's tokens is defined on float64: value descending, equal values by ascending token id, and only then
truncated. Where ties are long because raw counts are ranked, and where a row's columns do not ascend, counts are added
up in a dense row of the vocabulary beside a bitmap of the touched tokens: reading the bitmap gives them in ascending
order. Otherwise a row is read in its own order, and after it the few tokens that several columns share.
:mod:`scfm.tokenizer.sorting` sorts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from scfm.tokenizer.row import (
    BAD_TOTAL,
    EMPTY,
    FINE,
    INFINITE,
    NAN,
    NEGATIVE,
    add_up,
    check,
    collect,
    scale,
    take,
    take_shared,
)
from scfm.tokenizer.sorting import BUCKETS, compiled, order, place, repair, span
from scfm.types import Ragged

_FAULTS = {
    NAN: "has a NaN among its counts",
    INFINITE: "has an infinite count",
    NEGATIVE: "has a negative count",
    EMPTY: "has no counts at all (its total is 0)",
    BAD_TOTAL: "has a given total that is not a positive finite number",
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
    """Scratch memory of one call, so that calls in several threads share none."""

    dense: np.ndarray
    words: np.ndarray
    values: np.ndarray
    medians: np.ndarray
    tokens: np.ndarray
    keys: np.ndarray
    other: np.ndarray
    counts: np.ndarray


def _make_work(size: int) -> _Work:
    return _Work(
        dense=np.zeros(size),
        words=np.zeros(size // 64 + 1, dtype=np.uint64),
        values=np.empty(size),
        medians=np.empty(size),
        tokens=np.empty(size, dtype=np.uint16),
        keys=np.empty(size, dtype=np.uint32),
        other=np.empty(size, dtype=np.uint32),
        counts=np.zeros(BUCKETS, dtype=np.uint64),
    )


@compiled
def _drop_zeros(values: np.ndarray, tokens: np.ndarray, n: int) -> int:
    kept = 0
    for i in range(n):
        if values[i] > 0:
            values[kept] = values[i]
            tokens[kept] = tokens[i]
            kept += 1
    return kept


@compiled
def _rank_cell(n: int, limit: int, work: _Work, out: np.ndarray) -> int:
    """Write the tokens of the ``n`` collected values to ``out``, most expressed first, and return their number."""
    bits = work.values.view(np.int64)
    highest, lowest = span(bits, n)
    if lowest <= 0:
        n = _drop_zeros(work.values, work.tokens, n)
        highest, lowest = span(bits, n)
    if n == 0:
        return 0
    mask = (np.uint32(1) << place(n)) - np.uint32(1)
    kept = order(bits, n, highest, lowest, limit, work.keys, work.other, work.counts)
    repair(work.keys, kept, mask, bits, work.tokens)
    kept = min(kept, limit)
    for i in range(np.uint64(kept)):
        out[i] = work.tokens[work.keys[i] & mask]
    return kept


@compiled
def _rank_block(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    columns: np.ndarray,
    direct: bool,
    own: np.ndarray,
    shared: np.ndarray,
    medians: np.ndarray,
    scales: np.ndarray,
    totals: np.ndarray,
    checked: bool,
    limit: int,
    prefix: np.ndarray,
    suffix: np.ndarray,
    work: _Work,
    out: np.ndarray,
    offsets: np.ndarray,
) -> tuple[int, int]:
    """Rank every row; return (row, fault) of the first bad one, or (number of totals below their sum, 0)."""
    end, below = 0, 0
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        total, fault = (totals[row], FINE) if checked else check(data, start, stop)
        if len(totals) and fault == FINE:
            below += totals[row] < total
            total = totals[row]
            fault = FINE if 0 < total < np.inf else BAD_TOTAL
        if fault != FINE:
            return row, fault
        n = -1
        if direct:
            n = take(indices, data, start, stop, own, scales, total, work.values, work.medians, work.tokens)
            if n >= 0 and len(shared):
                n = take_shared(
                    indices, data, start, stop, shared, medians, total, work.dense, work.values, work.medians,
                    work.tokens, n,
                )  # fmt: skip
        if n < 0:
            add_up(indices, data, start, stop, columns, work.dense, work.words)
            n = collect(work.dense, work.words, medians, work.values, work.medians, work.tokens)
            if len(medians):
                scale(work.values[:n], work.medians, total)
        n = _rank_cell(n, limit, work, out[end + len(prefix) :])
        if n:
            out[end : end + len(prefix)] = prefix
            end += len(prefix) + n
            out[end : end + len(suffix)] = suffix
            end += len(suffix)
        offsets[row + 1] = end
    return below, FINE


_NONE = np.empty(0)


def _work_size(counts: csr_matrix, n_tokens: int) -> int:
    """Entries that the scratch memory must hold: the longest row before it is filtered, or the vocabulary."""
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
    checked: bool = False,
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
        checked: whether the caller has checked the counts and given the rows' sums as ``totals``.
        prefix: uint16 ids before each cell that is not empty.
        suffix: uint16 ids after it.

    Returns:
        The cells' ids (uint16), empty where a cell has no gene with a token; and how many given totals are smaller
        than the sum of the row.

    Raises:
        CellError: a NaN, an infinite or negative count, or a total that is not above 0.
    """
    columns = columns.astype(np.int32)
    meeting = (columns >= 0) & (np.bincount(columns[columns >= 0], minlength=n_tokens)[columns] > 1)
    counts = _plain(counts, sort=bool(meeting.any()))
    prefix = np.empty(0, np.uint16) if prefix is None else prefix.astype(np.uint16)
    suffix = np.empty(0, np.uint16) if suffix is None else suffix.astype(np.uint16)
    # Ties among raw counts are long: there, tokens must come in ascending order, which the direct way does not give.
    direct = medians is not None
    own, shared = np.where(meeting, -1, columns), np.where(meeting, columns, -1) if meeting.any() else columns[:0]
    scales = _NONE if medians is None else np.where(own >= 0, medians[own], 1.0)
    longest = np.minimum(np.diff(counts.indptr), limit) + len(prefix) + len(suffix)
    ids = np.empty(int(longest.sum()), dtype=np.uint16)
    offsets = np.zeros(counts.shape[0] + 1, dtype=np.int64)
    row, fault = _rank_block(
        counts.indptr, counts.indices, counts.data, columns, direct, own.astype(np.int32), shared.astype(np.int32),
        _NONE if medians is None else medians, scales, _NONE if totals is None else np.asarray(totals, np.float64),
        checked, limit, prefix, suffix, _make_work(_work_size(counts, n_tokens)), ids, offsets,
    )  # fmt: skip
    if fault != FINE:
        raise CellError(int(row), _FAULTS[fault])
    return Ragged(ids[: offsets[-1]], offsets), int(row)


def require_sound(counts: csr_matrix, n_genes: int) -> None:
    """Refuse a matrix whose indices lie outside it: compiled code does not check them.

    Args:
        counts: (B, G), of any origin.
        n_genes: G.

    Raises:
        ValueError: naming the part that does not fit.
    """
    pointers, indices = counts.indptr, counts.indices
    whole = (
        pointers.dtype.kind in "iu"
        and indices.dtype.kind in "iu"
        and len(pointers) == counts.shape[0] + 1
        and pointers[0] == 0
        and pointers[-1] <= min(len(indices), len(counts.data))
        and not (pointers[1:] < pointers[:-1]).any()
    )
    if not whole:
        raise ValueError(f"the matrix of {counts.shape[0]} cells is damaged: its indptr does not fit its values")
    if counts.shape[1] != n_genes or (len(indices) and not 0 <= indices.min() <= indices.max() < n_genes):
        raise ValueError(f"the matrix is damaged or of other genes: a column lies outside the {n_genes} genes")


def _plain(counts: csr_matrix, sort: bool) -> csr_matrix:
    """The same counts in a type that the kernel is compiled for; sorted rows where columns are summed as fractions."""
    if counts.data.dtype not in (np.float32, np.float64, np.int32, np.int64, np.uint16):
        counts = csr_matrix((counts.data.astype(np.float64), counts.indices, counts.indptr), shape=counts.shape)
    if sort and counts.data.dtype.kind == "f" and not counts.has_sorted_indices:
        counts = counts.sorted_indices()
    return counts
