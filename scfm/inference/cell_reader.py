"""Cells read by a model: opened, predicted by the one loop, and made into entries of an AnnData or a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from scfm.checkpoint import Checkpoint
from scfm.head.base import Written
from scfm.inference.cell_input import CellInput, open_input
from scfm.inference.gene_table import GeneStates, gene_components, read_gene_states
from scfm.inference.load import checkpoint_vocab
from scfm.inference.options import EmbedOptions, Settings, embed_options
from scfm.inference.predict import Step, predict, predict_step
from scfm.inference.state_table import CellVectors, cell_components, static_step
from scfm.inference.vote import add_majority, require_vote
from scfm.inference.write import make_entries, require_output, require_room, write_result
from scfm.io import atomic_write
from scfm.module import CellModule
from scfm.published.gene_classifier import GeneClassifier

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class CellReader:
    """Reads cells as a checkpoint does.

    Attributes:
        checkpoint: brings tokenizer and vocabulary.
        module: backbone and head.
        progress: show a progress bar.
    """

    checkpoint: Checkpoint
    module: CellModule
    progress: bool = False

    def entries(self, adata: AnnData, key: str, options: EmbedOptions) -> Written:
        """What embedding adds to an AnnData in memory, which is only read.

        Args:
            adata: the cells.
            key: of the embedding in ``obsm``.
            options: see there.

        Raises:
            ValueError: cells that cannot be read or have too few known genes.
        """
        with self._open(adata, key, options) as (given, module, settings):
            return self._entries_of(given, module, settings, key)

    def write_file(self, source: Path, output: Path, key: str, options: EmbedOptions, *, overwrite: bool) -> None:
        """Write a file of cells with all that embedding adds to it.

        Args:
            source: the file, which is not modified.
            output: the .h5ad to write.
            key: of the embedding in ``obsm``.
            options: see there.
            overwrite: replace an output that exists.

        Raises:
            FileExistsError: the output is there.
            ValueError: it is the input, or cells that cannot be read or have too few known genes.
        """
        require_output(source, output, overwrite=overwrite, checkpoint=self.checkpoint.path)
        with self._open(source, key, options) as (given, module, settings):
            entries = self._entries_of(given, module, settings, key)
            with atomic_write(output) as part:
                write_result(part, source, given.cells, entries)

    def gene_states(
        self, cells: AnnData | str | Path, by: str | None, key: str, options: EmbedOptions, *, components: bool
    ) -> tuple[GeneStates, np.ndarray]:
        """Sums of hidden states by gene and group, and where asked for the baseline vectors.

        Args:
            cells: an AnnData in memory, or a file.
            by: obs column of groups; None: all cells together.
            key: the usual name of the embedding.
            options: see there.
            components: compute the loadings of principal components, (V, k); else (0, 0).

        Raises:
            ValueError: no such column, or cells that cannot be read.
        """
        settings = embed_options(key, options)
        if settings.rule.pool is not None:
            raise ValueError(
                f"embedding_pool={settings.rule.pool} is for cells, and a gene has one state in a cell: give "
                "embedding_layer alone"
            )
        with (
            settings.rule.applied(self.module) as module,
            open_input(cells, self.checkpoint, settings.reading, keep_counts=False) as given,
        ):
            vocab, n = checkpoint_vocab(self.checkpoint), given.cells.n_cells
            with self._bar(n, "Reading genes") as bar:
                states = read_gene_states(
                    module.backbone, vocab, given, by=by, tokens=settings.tokens_per_batch,
                    block_size=settings.block_size, device=module.device,
                    classifier=GeneClassifier.from_checkpoint(self.checkpoint),
                    advance=None if bar is None else bar.update,
                )  # fmt: skip
            return states, gene_components(given, len(vocab)) if components else np.zeros((0, 0))

    def cell_vectors(
        self, cells: AnnData | str | Path, key: str, options: EmbedOptions
    ) -> tuple[CellVectors, pd.DataFrame]:
        """Embeddings of cells beside simple vectors, and their obs.

        Args:
            cells: an AnnData in memory, or a file.
            key: the usual name of the embedding.
            options: see there.

        Raises:
            ValueError: cells that cannot be read or have too few known genes.
        """
        settings = embed_options(key, options)
        with self._reading(cells, settings) as (given, module):
            vocab = checkpoint_vocab(self.checkpoint)
            step = static_step(predict_step(module), module.backbone.input_vectors, vocab)
            arrays = self._predict(given, step, settings)
            components = cell_components(given, len(vocab))
            return CellVectors(arrays["embedding"], arrays["static"], components), given.cells.obs

    @contextmanager
    def _open(
        self, cells: AnnData | Path, key: str, options: EmbedOptions
    ) -> Iterator[tuple[CellInput, CellModule, Settings]]:
        """The open cells, the module under the rule that the options ask for, and the options, checked."""
        settings = embed_options(key, options)
        require_room(cells, key)
        with self._reading(cells, settings) as (given, module):
            yield given, module, settings

    @contextmanager
    def _reading(self, cells: AnnData | str | Path, settings: Settings) -> Iterator[tuple[CellInput, CellModule]]:
        with (
            settings.rule.applied(self.module) as module,
            open_input(
                cells, self.checkpoint, settings.reading, keep_counts=module.reads_counts, fields=module.task.reads
            ) as given,
        ):
            yield given, module

    def _entries_of(self, given: CellInput, module: CellModule, settings: Settings, key: str) -> Written:
        require_vote(settings.vote, given.cells.n_cells)
        arrays = self._predict(given, predict_step(module), settings)
        head, about = module.task, given.provenance(self.checkpoint, module.backbone)
        obs = given.cells.obs if head.file_columns else None
        return add_majority(make_entries(head, arrays, key, about, str(given.cells.path), obs), key, settings.vote)

    def _predict(self, given: CellInput, step: Step, settings: Settings) -> dict[str, np.ndarray]:
        n = given.cells.n_cells
        tokens, block_size = settings.tokens_per_batch, settings.block_size
        batches = given.batches(tokens=tokens, block_size=block_size, part_size=max(n, 1))
        with self._bar(n, "Embedding") as bar:
            advance = None if bar is None else bar.update
            arrays = predict(step, batches, np.arange(n), self.module.device, advance)
        if not arrays:
            raise ValueError(f"{given.cells.path}: no cell has a gene that the model knows")
        return arrays

    @contextmanager
    def _bar(self, n: int, what: str) -> Iterator[tqdm | None]:
        with tqdm(total=n, unit="cell", desc=what) if self.progress else nullcontext() as bar:
            yield bar
