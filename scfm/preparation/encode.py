"""Encoding: the cells of a part (a range of rows of one file) to an Arrow file of token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from scfm.cells.file import Block, CellFile
from scfm.preparation.side import FieldEncoder
from scfm.preparation.steps import Steps
from scfm.preparation.worker import FileGenes, WorkerState, worker_state
from scfm.store.layout import write_arrays, write_json
from scfm.store.writer import Cells, PartWriter
from scfm.tokenizer import Tokenizer
from scfm.tokenizer.tally import Tally, count_different_tokens, tally
from scfm.tokenizer.token_counts import gather_counts
from scfm.types import Ragged

#: Bin width and number of bins of the report's histogram of genes per cell; the last bin is open.
GENES_PER_BIN, GENE_BINS = 100, 120


def encode_parts(
    steps: Steps, run: WorkerState, parts: Mapping[str, int], block_size: int
) -> dict[str, dict[str, Any]]:
    """Encode some parts; those that are whole in the working folder are skipped.

    Args:
        steps: of the run.
        run: its state.
        parts: cells by key.
        block_size: cells held at a time.

    Returns:
        The record of each part, see :func:`encode_part`.

    Raises:
        ValueError: a bad file, or no file is left.
    """

    def is_whole(record: Mapping[str, Any]) -> bool:
        """Whether the file of a part is there with all its bytes."""
        path = run.parts_folder / record["part"]["name"]
        return path.is_file() and path.stat().st_size == record["part"]["bytes"]

    sizes = list(parts.values())
    records = steps.run_tasks("parts", encode_part, list(parts), block_size, cells=sizes, valid=is_whole)
    steps.require_files()
    return records


def encode_part(folder: str, plan_hash: str, key: str, block_size: int) -> dict[str, Any]:
    """Encode a part, write it, and write its record.

    Args:
        folder: the working folder.
        plan_hash: of the plan in it.
        key: ``FILE-PART``.
        block_size: cells held at a time; the bytes do not depend on it.

    Returns:
        The record: ``part`` (a PartRecord), ``cells``, ``dropped`` by reason, ``truncated``, ``genes_per_cell``.
    """
    run = worker_state(folder, plan_hash)
    file, part = map(int, key.split("-"))
    start, stop = run.part_range(file, part)
    cells = run.open_file(file)
    encoder = Encoder(run, file, cells)
    run.parts_folder.mkdir(exist_ok=True)
    with PartWriter(run.parts_folder / f"data-{key}.arrow", run.work.scratch) as writer:
        for block in cells.blocks(start, stop, block_size, run.obs_columns(cells)):
            writer.write(encoder(block))
        record = {"part": asdict(writer.close()), "cells": stop - start, **encoder.report()}
    write_arrays(run.work.folder / "sums" / f"{key}.npz", genes=encoder.sums, lengths=encoder.lengths)
    write_json(run.work.record_path("parts", key), record)
    return record


class Encoder:
    """Encodes the blocks of one part and counts dropped and cut cells.

    Attributes:
        sums: (G,) float64, counts of each gene.
        lengths: (max_length+1,) int64, number of cells by number of tokens.
    """

    def __init__(self, run: WorkerState, file: int, cells: CellFile) -> None:
        self._run, self._file = run, file
        self._fields = FieldEncoder(run, cells)
        self._genes = run.file_genes(file)
        self.sums = np.zeros(len(self._genes.names))
        self._dropped: Counter[str] = Counter()
        self._truncated = 0
        self._gene_bins = np.zeros(GENE_BINS, np.int64)
        self.lengths = np.zeros(run.tokenizer.max_length + 1, np.int64)

    def __call__(self, block: Block) -> Cells:
        """Encode the cells of a block that are kept.

        Raises:
            ValueError: a cell without counts (if ``empty=refuse``), or one that cannot be ranked.
        """
        run, genes = self._run, self._genes
        sums = tally(block.counts, genes.weights, self.sums, whole=block.whole)
        kept = select_cells(run, block, sums, genes, self._file, self._dropped)
        rows = np.flatnonzero(kept)
        tokens = self._encode(block, rows, sums)
        known = tokens.lengths > 0
        self._dropped["no gene of the vocabulary"] += int((~known).sum())
        rows = rows[known]
        tokens = Ragged(tokens.values, np.append(tokens.offsets[:-1][known], tokens.offsets[-1:]))
        self._count(block, tokens, rows, sums)
        obs = block.obs.iloc[rows]
        counts = None
        if run.options["keep_counts"]:
            counts = gather_counts(tokens, block.counts, rows, genes.columns)
        names, file = np.asarray(obs.index, dtype=object), np.full(len(rows), self._file)
        try:
            codes = run.coder(obs)
        except ValueError as error:
            raise ValueError(f"{run.file_path(self._file)}: {error}") from error
        return Cells(tokens, names, file, sums.hashes[rows], codes, counts, self._fields(block.start, rows))

    def report(self) -> dict[str, Any]:
        """Numbers of dropped and cut cells, as plain values."""
        return {
            "dropped": {reason: n for reason, n in sorted(self._dropped.items()) if n},
            "truncated": self._truncated,
            "genes_per_cell": self._gene_bins.tolist(),
        }

    def _encode(self, block: Block, rows: np.ndarray, sums: Tally) -> Ragged:
        counts = block.counts if len(rows) == block.counts.shape[0] else block.counts[rows]
        column = self._run.options["n_counts"]
        totals = None if column is None else block.obs[column].to_numpy(dtype=np.float64)[rows]
        trusted = {}
        if column is None and block.whole and type(self._run.tokenizer).encode is Tokenizer.encode:
            # The counts were checked on reading, and sums of integers are exact; a user's tokenizer checks them itself.
            totals, trusted = sums.totals[rows], {"checked": True}
        try:
            return self._run.tokenizer.encode(counts, self._genes.columns, totals, **trusted)
        except ValueError as error:
            row = getattr(error, "row", None)
            cell = "" if row is None else f", cell {block.obs.index[rows[row]]!r}"
            raise ValueError(f"{self._run.file_path(self._file)}{cell}: {getattr(error, 'reason', error)}") from error

    def _count(self, block: Block, tokens: Ragged, rows: np.ndarray, sums: Tally) -> None:
        lengths, longest = tokens.lengths, self._run.tokenizer.max_length
        full = np.flatnonzero(lengths == longest)
        if full.size:
            had = count_different_tokens(block.counts, self._genes.columns, rows[full])
            self._truncated += int((had > self._run.tokenizer.genes_per_cell).sum())
        self._gene_bins += np.bincount(
            np.minimum(sums.n_genes[rows] // GENES_PER_BIN, GENE_BINS - 1), minlength=GENE_BINS
        )
        self.lengths += np.bincount(lengths, minlength=longest + 1)


def select_cells(
    run: WorkerState, block: Block, sums: Tally, genes: FileGenes, file: int, dropped: Counter[str]
) -> np.ndarray:
    """(B,) bool: the cells that pass; the others are counted in ``dropped`` by the first rule they fail.

    Raises:
        ValueError: a cell has no counts, and ``empty=refuse``.
    """
    kept = np.ones(len(sums.totals), dtype=bool)
    mito = None
    if run.quality.max_mito is not None:
        mito = np.asarray(block.counts @ genes.mito.astype(np.float64)).ravel()
    for rule, failed in run.quality.find_failures(block.obs, sums, mito, run.file_path(file)).items():
        dropped[rule] += int((kept & failed).sum())
        kept &= ~failed
    empty = kept & (sums.totals <= 0)
    if empty.any() and run.options["empty"] == "refuse":
        row = int(np.flatnonzero(empty)[0])
        raise ValueError(
            f"{run.file_path(file)}: cell {block.obs.index[row]!r} (row {block.start + row}) has no counts; drop such "
            "cells with empty=drop, or set quality.min_counts"
        )
    dropped["no counts"] += int(empty.sum())
    return kept & ~empty
