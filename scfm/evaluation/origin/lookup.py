"""Whether cells of a file are in a token store: by their counts, by their leading genes, by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from scfm.store.cell_hash import cell_hashes
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer
from scfm.types import Ragged

#: Genes that have to be the same, in the same order, and tokens of a stored cell among which they are sought.
N_LEADING, N_TOKENS = 16, 64
#: Stores of more cells are not searched by leading genes, which takes about half a second per 100,000 cells.
MAX_CELLS = 2_000_000
CHUNK = 65_536


@dataclass(frozen=True)
class Matches:
    """Which cells of a file are in a store.

    Attributes:
        by_counts: (B,) bool: a cell of the store has the same counts.
        by_genes: (B,) bool: a cell of the store has the same leading genes, of those that both know.
        by_name: (B,) bool: a cell of the store has the same name, whatever its counts.
    """

    by_counts: np.ndarray
    by_genes: np.ndarray
    by_name: np.ndarray

    def __or__(self, other: Matches) -> Matches:
        return Matches(self.by_counts | other.by_counts, self.by_genes | other.by_genes, self.by_name | other.by_name)


#: (names (B,), counts (B, G)) -> which of the cells are in a store
Lookup = Callable[[np.ndarray, csr_matrix], Matches]


def find_cells(
    store: TokenStore, tokenizer: Tokenizer, columns: np.ndarray, names: np.ndarray, counts: csr_matrix
) -> Matches:
    """Look for cells of a file in a store.

    Equal counts are certain, but a filter of genes changes them: then the order of the leading genes, of those that
    both the file and the store know, still tells the same cell. Where that differs, too (counts that were corrected,
    another quantification), names are left.

    Args:
        store: where to look.
        tokenizer: of the store.
        columns: (G,) token id of each gene of the counts, -1 where there is none.
        names: (B,) of the cells.
        counts: (B, G).
    """
    by_counts = store.overlap(cell_hashes(counts, columns, store.vocab))
    by_genes = np.zeros(len(names), dtype=bool)
    if not by_counts.all() and len(store) <= MAX_CELLS:
        by_genes = match_genes(store, tokenizer.encode(counts, columns), columns)
    return Matches(by_counts, by_genes, match_names(store, names))


def match_names(store: TokenStore, names: np.ndarray) -> np.ndarray:
    """(B,) bool: which cell names are in a store; none where a published dataset has no names."""
    try:
        column = store.column("cell")
    except KeyError:
        return np.zeros(len(names), dtype=bool)
    wanted = pa.array([str(name) for name in names], pa.string())
    return pc.is_in(wanted, value_set=pc.cast(column.combine_chunks(), pa.string())).to_numpy(zero_copy_only=False)


def match_genes(store: TokenStore, tokens: Ragged, columns: np.ndarray) -> np.ndarray:
    """(B,) bool: which cells have the leading genes of a cell of the store, in its order.

    Args:
        store: where to look.
        tokens: of the cells (B,), by the tokenizer of the store.
        columns: (G,) token id of each gene of the file, -1 where there is none.
    """
    in_file = np.zeros(len(store.vocab), dtype=bool)
    in_file[columns[columns >= 0]] = True
    in_store, stored = np.zeros(len(store.vocab), dtype=bool), []
    for start in range(0, len(store), CHUNK):
        part = store.gather(np.arange(start, min(start + CHUNK, len(store))), N_TOKENS)
        in_store[part.values] = True
        stored.append(_leading(part, in_file)[0])
    in_store[list(store.vocab.specials.values())] = False
    leading, rows = _leading(tokens, in_file & in_store)
    result = np.zeros(len(tokens), dtype=bool)
    result[rows] = np.isin(_as_items(leading), _as_items(np.concatenate(stored)))
    return result


def _leading(cells: Ragged, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 16) the first known genes of the cells that have so many, and (n,) which cells these are."""
    owner = np.repeat(np.arange(len(cells)), cells.lengths)
    kept = known[cells.values]
    owner, values = owner[kept], cells.values[kept].astype(np.int32)
    sizes = np.bincount(owner, minlength=len(cells))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = np.flatnonzero(sizes >= N_LEADING)
    return values[starts[rows][:, None] + np.arange(N_LEADING)], rows


def _as_items(table: np.ndarray) -> np.ndarray:
    """(n,) one item for each row, to be compared as a whole."""
    table = np.ascontiguousarray(table)
    return table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1]))).ravel()
