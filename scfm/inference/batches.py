"""Cells of a file, or of an AnnData in memory, as packed batches."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import IterableDataset

from scfm.batch import Batch
from scfm.cells.file import CellFile
from scfm.checkpoint import Checkpoint
from scfm.data.order import Order
from scfm.data.packing import pack
from scfm.genes import GeneMap, GeneReport
from scfm.store.fields import pad_field
from scfm.store.file_field import FileField
from scfm.tokenizer import Tokenizer, from_dict
from scfm.tokenizer.token_counts import gather_counts
from scfm.types import Ragged, field_key

log = logging.getLogger(__name__)


class CellBatches(IterableDataset[Batch]):
    """The cells of an open file as packed batches, tokenized block by block; cells without tokens are left out.

    Args:
        cells: the open file.
        genes: its columns as columns of the vocabulary.
        tokenizer: makes the tokens.
        tokens: of a batch, at most (the longest cell fits in any case).
        block_size: cells read at once.
        part_size: cells of a part; a batch never spans two.
        keep_counts: whether batches carry the counts behind their tokens.
        fields: second modalities that batches carry, by kind.
        done: parts to leave out.
        rank: this process does every ``world``-th part.
        world: number of processes.
    """

    def __init__(
        self,
        cells: CellFile,
        genes: GeneMap,
        tokenizer: Tokenizer,
        *,
        tokens: int,
        block_size: int,
        part_size: int,
        keep_counts: bool = False,
        fields: Mapping[str, FileField] | None = None,
        done: Collection[int] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.cells, self.genes, self.tokenizer = cells, genes, tokenizer
        self.tokens, self.block_size, self.part_size = tokens, block_size, part_size
        self.keep_counts, self.fields = keep_counts, dict(fields or {})
        self.parts = [part for part in range(rank, -(-cells.n_cells // part_size), world) if part not in done]

    def __iter__(self) -> Iterator[Batch]:
        for part in self.parts:
            start = part * self.part_size
            stop = min(start + self.part_size, self.cells.n_cells)
            for block in self.cells.blocks(start=start, stop=stop, size=self.block_size, columns=()):
                counted = np.flatnonzero(~block.empty)
                tokens = self.tokenizer.encode(block.counts[counted], self.genes.columns)
                counts = (
                    Ragged(gather_counts(tokens, block.counts, counted, self.genes.columns), tokens.offsets)
                    if self.keep_counts
                    else None
                )
                fields = {kind: field.rows(block.start, counted) for kind, field in self.fields.items()}
                for batch, places in _packed(tokens, block.start + counted, budget=self.tokens, counts=counts):
                    obs = {
                        field_key(kind): pad_field(kind, take_rows(fields[kind], places), field.n_features)
                        for kind, field in self.fields.items()
                    }
                    yield batch.with_obs({name: torch.from_numpy(values) for name, values in obs.items()})


def take_rows(values: Ragged, rows: np.ndarray) -> Ragged:
    """Some rows, in that order."""
    lengths = values.lengths[rows]
    chosen = [values[row] for row in rows]
    return Ragged(np.concatenate([values.values[:0], *chosen]), np.concatenate([[0], np.cumsum(lengths)]))


def packed(tokens: Ragged, index: np.ndarray, *, budget: int, counts: Ragged | None = None) -> Iterator[Batch]:
    """Cells in memory as packed batches; those without tokens are left out.

    Args:
        tokens: of B cells.
        index: (B,) what ``Batch.index`` names them by.
        budget: tokens of a batch, at most (the longest cell fits in any case).
        counts: behind the tokens, where batches shall carry them.
    """
    yield from (batch for batch, _ in _packed(tokens, index, budget=budget, counts=counts))


def _packed(
    tokens: Ragged, index: np.ndarray, *, budget: int, counts: Ragged | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The same, each batch with the places of its cells."""
    rows = np.flatnonzero(tokens.lengths)
    if len(rows) == 0:
        return
    lengths = tokens.lengths[rows]
    plan = Order(rows, lengths, tokens=max(budget, int(lengths.max())), shuffle=False).epoch(0)
    for step in range(len(plan)):
        chosen = plan[step]
        values = np.concatenate([tokens[row] for row in chosen])
        offsets = np.concatenate([[0], np.cumsum(tokens.lengths[chosen])])
        beside = None if counts is None else np.concatenate([counts[row] for row in chosen])
        yield pack(Ragged(values, offsets), index[chosen], counts=beside), chosen


def trained_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint, cutting cells as its embedding wants them.

    That is ``model.embedding_length`` of a pretrained model; else, and for a head, where the training cut them.
    """
    tokenizer = from_dict(checkpoint.tokenizer)
    own = checkpoint.config["model"].get("embedding_length") if checkpoint.command == "train" else None
    cut = own or checkpoint.config["data"]["max_length"]
    return tokenizer if cut is None else replace(tokenizer, max_length=min(cut, tokenizer.max_length))


def report_genes(cells: CellFile, genes: GeneMap, max_dropped: float) -> GeneReport:
    """What of a file's genes the model knows, judged on blocks from all over the file.

    Raises:
        ValueError: more than ``max_dropped`` of the counts is of genes that it does not know.
    """
    starts = np.linspace(0, max(0, cells.n_cells - 256), num=8, dtype=int)
    counts = np.zeros(len(cells.genes))
    for start in np.unique(starts):
        for block in cells.blocks(start=int(start), stop=min(int(start) + 256, cells.n_cells), columns=()):
            counts += np.asarray(block.counts.sum(axis=0), dtype=np.float64).ravel()
    report = genes.report(counts)
    report.require(max_dropped, str(cells.path), cells.var_columns, cells.first_names())
    return report
