"""Cells of an analysis in memory: counts, obs and full rankings of some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csr_matrix

from scfm.data.packing import pack
from scfm.inference.cell_input import CellInput
from scfm.inference.model import Model
from scfm.tokenizer import Tokenizer
from scfm.types import Ragged


@dataclass(frozen=True)
class Cells:
    """Some rows of a file.

    Attributes:
        rows: (n,) int64, ascending rows of the file; all of them have counts.
        obs: n rows; the index holds the cells' names.
        counts: (n, V) float64, the counts of each token, those of columns that meet on one token summed.
        totals: (n,) float64, the counts of each cell over all its genes, also those without a token.
        ranked: genes of each cell by rank, all that have a token, without special tokens.
        limit: genes that the model reads of a cell.
        is_counts: whether the values are counts and not logarithms.
    """

    rows: np.ndarray
    obs: pd.DataFrame
    counts: csr_matrix
    totals: np.ndarray
    ranked: Ragged
    limit: int
    is_counts: bool

    def __len__(self) -> int:
        return len(self.rows)

    def read_genes(self, cell: int) -> np.ndarray:
        """Genes of a cell that the model reads, by rank."""
        return self.ranked[cell][: self.limit].astype(np.int64)

    def log_normalized(self) -> csr_matrix:
        """(n, V) float32: log(1 + 10 000 x / total); values that are no counts stay as they are."""
        if not self.is_counts:
            return self.counts.astype(np.float32)
        scaled = sparse.diags(1e4 / self.totals) @ self.counts
        return csr_matrix(scaled.log1p(), dtype=np.float32)


def read_cells(given: CellInput, rows: np.ndarray, *, block_size: int = 1024) -> Cells:
    """Read rows of a file; those without counts or without a gene of the vocabulary are left out.

    Args:
        given: open cells.
        rows: ascending.
        block_size: cells read at once.
    """
    vocab = given.tokenizer.require_vocab()
    whole = replace(given.tokenizer, max_length=len(vocab) + 2)
    specials = np.array(sorted(vocab.specials.values()))
    kept, counts, totals, ranked = [], [], [], []
    to_tokens = _column_map(given.genes.columns, len(vocab))
    for block in given.cells.blocks(size=block_size, columns=[]):
        inside = rows[(rows >= block.start) & (rows < block.start + block.counts.shape[0])] - block.start
        inside = inside[~block.empty[inside]]
        if len(inside) == 0:
            continue
        part = csr_matrix(block.counts[inside], dtype=np.float64)
        encoded = whole.encode(block.counts[inside], given.genes.columns)
        full = np.flatnonzero(encoded.lengths)
        ranked += [row[~np.isin(row, specials)] for row in (encoded[int(i)] for i in full)]
        kept.append(inside[full] + block.start)
        counts.append(csr_matrix(part[full] @ to_tokens))
        totals.append(np.asarray(part[full].sum(axis=1)).ravel())
    chosen = np.concatenate([np.empty(0, np.int64), *kept])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ranked])]).astype(np.int64)
    return Cells(
        rows=chosen,
        obs=given.cells.obs.iloc[chosen],
        counts=csr_matrix(sparse.vstack(counts)) if counts else csr_matrix((0, len(vocab))),
        totals=np.concatenate([np.empty(0), *totals]),
        ranked=Ragged(np.concatenate(ranked) if ranked else np.empty(0, np.uint16), offsets),
        limit=given.tokenizer.genes_per_cell,
        is_counts=given.cells.is_counts,
    )


def count_embedded(model: Model, tokenizer: Tokenizer) -> int:
    """Genes of a cell that the embedding of a model is read from, at most; a head may cut cells shorter."""
    frame = sum(map(len, tokenizer.roles))
    before, after = ([tokenizer.require_vocab().special(role) for role in roles] for roles in tokenizer.roles)
    genes = np.resize(model.vocab.gene_ids, tokenizer.genes_per_cell)
    ids = np.concatenate([before, genes, after]).astype(np.int64)
    longest = pack(Ragged(ids, np.array([0, len(ids)])), np.zeros(1))
    return model.head.view(longest).n_tokens - frame


def count_in_layers(model: Model, tokenizer: Tokenizer) -> int:
    """Genes of a cell that the layers of a model read, at most: these have states."""
    length: int | None = getattr(model.backbone, "layer_length", None)
    most = tokenizer.genes_per_cell
    return most if length is None else max(min(most, length - len(tokenizer.roles[0])), 0)


def draw_rows(rows: np.ndarray, limit: int | None, groups: Sequence[object] | None, seed: int) -> np.ndarray:
    """At most ``limit`` rows, as many of each group as there are to be had, ascending.

    Args:
        rows: to draw from.
        limit: None keeps all.
        groups: of each row, donors say; None draws from all alike.
        seed: of the draw.
    """
    if limit is None or len(rows) <= limit:
        return np.sort(rows)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    if groups is None:
        return np.sort(rows[order[:limit]])
    names = pd.Series(np.asarray(groups, dtype=object)[order], dtype=object).astype(str)
    turn = names.groupby(names).cumcount().to_numpy()  # the first of every group, then the second of every group ...
    return np.sort(rows[order[np.argsort(turn, kind="stable")[:limit]]])


def _column_map(columns: np.ndarray, n_tokens: int) -> csr_matrix:
    """(G, V) of ones: which column is which token."""
    known = np.flatnonzero(columns >= 0)
    return csr_matrix((np.ones(len(known)), (known, columns[known])), shape=(len(columns), n_tokens))
