"""The spectral start: embeddings of genes that occur in the same cells begin near each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scfm.data.module import CellData
from scfm.model.backbone import Backbone
from scfm.model.denoiser import Denoiser
from scfm.model.start.axes import fit_axes
from scfm.model.start.factorization import correspondence_embedding, ppmi_embedding
from scfm.progress import memory
from scfm.types import Spec

log = logging.getLogger(__name__)

#: Cells that are in memory at once.
BLOCK = 4096


class Spectral:
    """Token embeddings from a factorization of which genes occur in which training cells; output bias at log frequency.

    Embeddings are centered over genes and brought to one length. Genes that occur in too few cells, and tokens that are
    no genes, keep the usual start; so do further columns where there are fewer genes than columns. An output layer that
    is not tied to the input begins with the same embeddings.

    Args:
        factorization: ``ppmi`` (gene x gene) or ``correspondence`` (cells x genes, in passes over the cells).
        max_length: first tokens of a cell, the most expressed, that count as present.
        min_cells: a gene in fewer of the cells that are read keeps the usual start.
        max_cells: training cells that are read, drawn at random.
        max_genes: where more genes are left, ``ppmi`` gives way to ``correspondence``: it needs 4 bytes a pair.
        length: of an embedding, times the square root of the width. 0.08 is four times the length of a position, so
            that LayerNorm sees the gene first.
        components: principal components of log counts among the axes of ``model.embedding_pool=denoised``.
        passes: iterations of the randomized SVD.
        seed: of the drawn cells and of the SVD.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self,
        *,
        factorization: Literal["ppmi", "correspondence"] = "ppmi",
        max_length: int = 256,
        min_cells: int = 20,
        max_cells: int = 100_000,
        max_genes: int = 20_000,
        length: float = 0.08,
        components: int = 64,
        passes: int = 5,
        seed: int = 0,
    ) -> None:
        least = {"max_length": max_length, "min_cells": min_cells, "max_cells": max_cells, "passes": passes}
        wrong = [f"start.{name}={value}" for name, value in least.items() if value < 1]
        if wrong or length <= 0 or max_genes < 0 or components < 0:
            rest = f"start.length={length}, start.max_genes={max_genes}, start.components={components}"
            raise ValueError(
                f"{', '.join(wrong) or rest}; expected whole numbers of at least 1, a length above 0, and 0 or more "
                "genes and components"
            )
        self.factorization, self.max_length, self.min_cells = factorization, max_length, min_cells
        self.max_cells, self.max_genes = max_cells, max_genes
        self.length, self.components, self.passes, self.seed = length, components, passes, seed

    def initialize(self, backbone: Backbone, data: CellData, spec: Spec) -> None:
        """Overwrite the embeddings of genes, and the bias of the output layer where it has one.

        Args:
            backbone: built, not yet divided over devices.
            data: the training cells.
            spec: their token counts.
        """
        began = time.monotonic()
        model: Any = backbone.model
        inputs, decoder = model.get_input_embeddings().weight, model.get_output_embeddings()
        genes, embedding, distance, kind = self.embed_genes(data, inputs.shape[1])
        with torch.no_grad():
            if backbone.readout is not None:
                weight = backbone.readout.token_weight
                weight.zero_()[torch.from_numpy(genes)] = torch.from_numpy(distance).to(weight)
            if isinstance(backbone.readout, Denoiser):
                if not len(genes):
                    raise ValueError(
                        f"model.embedding_pool=denoised needs genes that start.min_cells={self.min_cells} training "
                        "cells have, and fewer than 2 are there; lower start.min_cells or give more cells"
                    )
                self._fit_denoiser(backbone.readout, data, genes, embedding * distance[:, None])
            for table in {id(t): t for t in (inputs, decoder.weight)}.values():
                if table.shape[1] == inputs.shape[1]:
                    table[torch.from_numpy(genes), : embedding.shape[1]] = torch.from_numpy(embedding).to(table)
            if getattr(decoder, "bias", None) is not None and spec.token_counts is not None:
                decoder.bias.copy_(torch.from_numpy(log_frequencies(spec, causal=backbone.causal)))
        log.info(
            "Spectral start (%s): %d of %d genes, %d columns, %.1f s, %.2f GB.",
            *(kind, len(genes), len(spec.vocab.gene_ids), embedding.shape[1], time.monotonic() - began, memory()),
        )

    def embed_genes(self, data: CellData, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Embeddings of genes.

        Returns:
            Ids of the genes (G,); their embeddings (G, at most width) float32; (G,) float32 their distance from the
            center before they got one length, over its mean: how much a gene tells about cells; and the factorization
            that was used.
        """
        rows, limit = self._draw(data.split.train), min(self.max_length, data.max_length or self.max_length)
        vocab, cells = data.store.vocab, np.zeros(len(data.store.vocab), dtype=np.int64)
        is_gene = np.isin(np.arange(len(vocab)), vocab.gene_ids)
        for part in _parts(rows):
            cells += np.bincount(data.store.gather(part, limit).values, minlength=len(cells))
        genes = np.flatnonzero(is_gene & (cells >= self.min_cells))
        genes = genes[np.argsort(-cells[genes], kind="stable")]  # frequent ones together: their pairs stay in the cache
        rank = min(width, len(genes) - 1)
        if rank < 1:
            log.warning("Fewer than 2 genes occur in %d cells: all keep the usual start.", self.min_cells)
            return genes[:0], np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.float32), "none"
        place = np.full(len(vocab), -1)
        place[genes] = np.arange(len(genes))

        def read() -> Iterator[csr_matrix]:
            for part in _parts(rows):
                yield _presence(data, part, limit, place, len(genes))

        options = {"passes": self.passes, "seed": self.seed}
        kind = self.factorization if len(genes) <= self.max_genes else "correspondence"
        if kind != self.factorization:
            log.warning("%d genes are more than start.max_genes=%d: correspondence.", len(genes), self.max_genes)
        if kind == "ppmi":
            found = ppmi_embedding(read(), len(genes), rank, **options)
            found -= found.mean(0)
        else:  # its center is the mean profile already
            found = correspondence_embedding(read, len(genes), rank, **options)
            found /= np.sqrt(cells[genes] / cells[genes].sum(), dtype=np.float32)[:, None]
        norm = np.maximum(np.linalg.norm(found, axis=1), np.float32(1e-6))
        unit = found * np.float32(self.length * np.sqrt(width)) / norm[:, None]
        return genes, unit, norm / norm.mean(), kind

    def _fit_denoiser(self, denoiser: Denoiser, data: CellData, genes: np.ndarray, embedding: np.ndarray) -> None:
        """Set the axes, their center and the linear prediction of one half of a cell from the other."""
        table = np.zeros((len(data.store.vocab), embedding.shape[1]))
        table[genes] = embedding
        rows, limit = self._draw(data.split.train), data.max_length
        is_gene = np.isin(np.arange(len(table)), data.store.vocab.gene_ids)

        def read() -> Iterator[csr_matrix]:
            for part in _parts(rows):
                yield _counts(data, part, limit, is_gene)

        options = {"width": denoiser.axes.shape[1], "components": self.components}
        found = fit_axes(read, table, **options, passes=self.passes, seed=self.seed)
        for name in ("axes", "center", "linear"):
            getattr(denoiser, name).copy_(torch.from_numpy(getattr(found, name)))
        log.info("One half of a cell's counts tells %.0f%% of the axes of the other, linearly.", 100 * found.explained)

    def _draw(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) <= self.max_cells:
            return np.asarray(rows)
        return np.sort(np.random.default_rng(self.seed).choice(rows, self.max_cells, replace=False))


def log_frequencies(spec: Spec, *, causal: bool) -> np.ndarray:
    """Ln p of each token, less its mean, (V,) float32; tokens that are no targets count as unseen.

    Args:
        spec: with ``token_counts``; 0.5 is added to each.
        causal: whether the end of a cell (eos) is predicted too.
    """
    assert spec.token_counts is not None
    targets = [*spec.vocab.gene_ids, *([spec.vocab.specials["eos"]] if causal and "eos" in spec.vocab.specials else [])]
    counts = np.where(np.isin(np.arange(len(spec.vocab)), targets), spec.token_counts, 0) + 0.5
    logs = np.log(counts / counts.sum())
    return (logs - logs.mean()).astype(np.float32)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, -(-len(rows) // BLOCK)))


def _presence(data: CellData, rows: np.ndarray, limit: int, place: np.ndarray, n_genes: int) -> csr_matrix:
    """Cells x genes, 1 where the gene is among the first tokens of the cell."""
    cells = data.store.gather(rows, limit)
    where = place[cells.values]
    kept = where >= 0
    offsets = np.concatenate([[0], np.cumsum(kept)])[cells.offsets]
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    return csr_matrix((ones, where[kept], offsets), shape=(len(rows), n_genes))


def _counts(data: CellData, rows: np.ndarray, limit: int | None, is_gene: np.ndarray) -> csr_matrix:
    """Cells x V, the counts of genes."""
    cells, counts = data.store.gather(rows, limit), np.asarray(data.store.counts(rows, limit), dtype=np.float32)
    kept = is_gene[cells.values]
    offsets = np.concatenate([[0], np.cumsum(kept)])[cells.offsets]
    return csr_matrix((counts[kept], cells.values[kept].astype(np.int64), offsets), shape=(len(rows), len(is_gene)))
