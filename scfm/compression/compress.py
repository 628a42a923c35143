"""Make a checkpoint smaller, step by step, and say after each what it costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.checkpoint import Checkpoint
from scfm.compression.distill import Distill, begin_student, distill
from scfm.compression.prune import drop_columns, drop_layers, mean_embeddings
from scfm.compression.vocabulary import known_tokens, prune_tokenizer, prune_weights, used_tokens
from scfm.config import build
from scfm.data.module import CellData
from scfm.inference.load import checkpoint_vocab, restore_backbone
from scfm.int8 import pack_weights, unpack_weights
from scfm.metrics.neighbors import find_neighbors
from scfm.model.backbone import Backbone
from scfm.model.readout import reads_counts
from scfm.objective.mlm import MLM
from scfm.store.token_store import TokenStore
from scfm.types import Needs, Spec
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: Neighbors whose overlap is told.
NEIGHBORS = 15


@dataclass(frozen=True)
class CompressOptions:
    """What is taken away; the steps are in this order, and null or 0 leaves one out.

    Attributes:
        layers: to keep; those go first whose removal changes the embeddings least.
        feedforward: columns of each feed-forward layer to keep.
        width: of a student that is distilled; ``distill.steps`` must be above 0.
        distill: how the student is trained; without ``width`` the pruned model itself is trained on.
        min_cells: genes of fewer cells of the store leave the vocabulary.
        int8: whether matrices are stored as 8-bit numbers.
        max_cells: cells by which layers and columns are judged, and the embeddings compared.
        tokens_per_batch: lower it when memory runs out.
        max_length: tokens of a cell that are read.
        seed: of everything random.
    """

    layers: int | None = None
    feedforward: int | None = None
    width: int | None = None
    distill: Distill = field(default_factory=Distill)
    min_cells: int | None = None
    int8: bool = False
    max_cells: int = 2000
    tokens_per_batch: int = 4096
    max_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        steps = (self.layers, self.feedforward, self.width, self.min_cells)
        if not any(step is not None for step in steps) and not self.int8 and not self.distill.steps:
            raise ValueError("nothing to do: give layers=, feedforward=, width=, min_cells= or int8=true")
        if any(step is not None and step < 1 for step in steps) or self.max_cells < NEIGHBORS + 2:
            raise ValueError(
                f"layers={self.layers}, feedforward={self.feedforward}, width={self.width}, "
                f"min_cells={self.min_cells}, max_cells={self.max_cells}; expected numbers of 1 or more, "
                f"and at least {NEIGHBORS + 2} cells"
            )
        if self.width is not None and not self.distill.steps:
            raise ValueError(f"width={self.width} makes a student that has to be trained: give distill.steps=500, say")


@dataclass(frozen=True)
class Compressed:
    """A smaller checkpoint.

    Attributes:
        state: what :func:`scfm.strategy.checkpoint_io.write_checkpoint` writes.
        curve: a row for each step: ``step, parameters, megabytes, cells_per_second, neighbor_overlap, cosine``.
    """

    state: dict[str, Any]
    curve: pd.DataFrame


#: Progress of a part: title, total -> a context with its callback.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def compress(
    checkpoint: Checkpoint, about: Mapping[str, Any], store: TokenStore, options: CompressOptions,
    bar: Bar = lambda title, total: nullcontext(lambda n: None),
) -> Compressed:  # fmt: skip
    """Compress a checkpoint.

    Args:
        checkpoint: read.
        about: what it says of itself, its entry ``scfm``.
        store: cells of the same vocabulary.
        options: what is taken away.
        bar: shows progress.

    Raises:
        ValueError: another vocabulary, a step that does not fit the model, or a fine-tuned checkpoint whose backbone is
            to change.
    """
    vocab = checkpoint_vocab(checkpoint)
    vocab.require_same(store.vocab, f"the checkpoint {checkpoint.path}", f"the store {store.path}")
    changes = options.layers or options.feedforward or options.width or options.distill.steps
    if checkpoint.command == "finetune" and changes:
        raise ValueError(
            f"{checkpoint.path} has a head that was fitted on its backbone: take min_cells= and int8= alone, or "
            "compress the pretrained checkpoint and fine-tune it again"
        )
    run = _Run(checkpoint, vocab, store, options, bar)
    run.note("as it was")
    if options.layers is not None:
        run.shorten(options.layers)
    if options.feedforward is not None:
        run.narrow(options.feedforward)
    if options.distill.steps:
        run.teach()
    weights = dict(checkpoint.weights) if not changes else run.weights()
    tokenizer: Mapping[str, Any] = checkpoint.tokenizer
    if options.min_cells is not None:
        kept = used_tokens(store, options.min_cells)
        weights, tokenizer = prune_weights(weights, len(vocab), kept), prune_tokenizer(tokenizer, kept)
        run.prune(weights, tokenizer, kept)
    if options.int8:
        weights = pack_weights(weights)
        run.read_back(weights)
    config = {**checkpoint.config, "model": run.model}
    state = {
        "scfm": {**about, "config": config, "tokenizer": dict(tokenizer), "vocab_hash": run.vocab.hash},
        "state_dict": weights,
        "global_step": checkpoint.step,
    }
    return Compressed(state, pd.DataFrame(run.rows))


class _Run:
    """The model on its way, and what each step cost."""

    def __init__(
        self, checkpoint: Checkpoint, vocab: Vocab, store: TokenStore, options: CompressOptions, bar: Bar
    ) -> None:
        self.options, self.vocab, self.bar, self.causal = options, vocab, bar, checkpoint.causal
        self.model = dict(checkpoint.config["model"])
        self.backbone: Backbone = restore_backbone(checkpoint).eval()
        data = CellData(
            store, tokens_per_batch=options.tokens_per_batch, max_length=options.max_length, val=0.0, test=0.0,
            group=None, seed=options.seed,
        )  # fmt: skip
        self.data = data.planned(Needs(counts=reads_counts(self.backbone)))
        rng = np.random.default_rng(options.seed)
        rows = np.sort(rng.permutation(len(store))[: options.max_cells])
        self.batches: Sequence[Batch] = list(self.data.loader(rows, alone=True))
        self.spec = Spec(vocab, self.backbone.width, n_cells=len(store))
        self.first: np.ndarray | None = None
        self.rows: list[dict[str, Any]] = []

    def weights(self) -> dict[str, Tensor]:
        """Of the backbone, by the names of a checkpoint."""
        return {f"backbone.{name}": value.detach().clone() for name, value in self.backbone.state_dict().items()}

    def note(self, step: str, stored: Mapping[str, Tensor] | None = None) -> None:
        """Measure the model and add a row."""
        began = time.perf_counter()
        values = mean_embeddings(self.backbone, self.batches, self.vocab).numpy()
        seconds = time.perf_counter() - began
        near = find_neighbors(values, NEIGHBORS + 1).indices[:, 1:]
        if self.first is None:
            self.first, self._near = values, near
        overlap = np.mean([len(set(a) & set(b)) / NEIGHBORS for a, b in zip(near, self._near, strict=True)])
        cosine = float("nan")
        if values.shape == self.first.shape:
            norms = np.linalg.norm(values, axis=1) * np.linalg.norm(self.first, axis=1)
            cosine = float(((values * self.first).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
        given = self.weights() if stored is None else stored
        self.rows.append({
            "step": step,
            "parameters": sum(parameter.numel() for parameter in self.backbone.parameters()),
            "megabytes": _stored_bytes(given) / 1e6,
            "cells_per_second": len(values) / seconds,
            "neighbor_overlap": float(overlap),
            "cosine": cosine,
        })  # fmt: skip
        log.info(
            "%-24s %9d parameters %6.1f MB, overlap of neighbors %.3f",
            step,
            *list(self.rows[-1].values())[1:3],
            overlap,
        )

    def shorten(self, n_layers: int) -> None:
        """Drop layers."""
        removed = drop_layers(self.backbone, n_layers, self.batches, self.vocab)
        self.model = {**self.model, "layers": n_layers, "embedding_layer": -1}
        self.backbone.embedding_layer = -1
        self.note(f"without layer(s) {', '.join(map(str, removed))}")

    def narrow(self, n_columns: int) -> None:
        """Drop feed-forward columns."""
        if self.causal:
            raise ValueError(
                "feedforward= is judged by the loss of masked genes, but the model is causal; leave it out"
            )
        objective = MLM(self.spec)
        drop_columns(self.backbone, n_columns, self.batches, lambda model, batch: objective(model, batch)["loss"])
        self.model = {**self.model, "feedforward": n_columns}
        self.backbone.eval()
        self.note(f"{n_columns} columns")

    def teach(self) -> None:
        """Distil a student, or train the pruned model on with the model before it as its teacher."""
        teacher, how = self.backbone.eval(), self.options.distill
        config = dict(self.model)
        if self.options.width is not None:
            if not 1 <= self.options.width <= teacher.width:
                raise ValueError(
                    f"width={self.options.width} of a student, whose teacher has {teacher.width}; expected at most that"
                )
            share = self.options.width / teacher.width
            config |= {
                "width": self.options.width,
                "heads": max(1, round(self.model["heads"] * share)),
                "feedforward": max(1, round(self.model["feedforward"] * share)),
            }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            student: Backbone = build(config, self.vocab, causal=self.causal)
            if self.options.width is None:
                student.load_state_dict(teacher.state_dict())
            else:
                begin_student(student, teacher)
            loader = self.data.loader(self.data.split.train, held_out=False, alone=True)
            with self.bar("Distilling", how.steps) as advance:
                losses = distill(student, teacher.requires_grad_(False), loader, self.spec, how, advance)
        log.info("The student's loss went from %.3f to %.3f.", losses[0], np.mean(losses[-10:]))
        self.model, self.backbone = config, student.eval()
        self.note(f"student of width {student.width}" if self.options.width else "trained on")

    def prune(self, weights: Mapping[str, Tensor], tokenizer: Mapping[str, Any], kept: np.ndarray) -> None:
        """Take the model of fewer genes, and the cells in its ids."""
        before = len(self.vocab)
        self.batches = [known_tokens(batch, kept, before) for batch in self.batches]
        self.vocab = Vocab.from_dict(tokenizer["vocab"])
        self._load(weights)
        self.note(f"{len(self.vocab.gene_ids)} genes")

    def read_back(self, packed: Mapping[str, Tensor]) -> None:
        """Take the weights as they are read from 8-bit numbers."""
        self._load(unpack_weights(packed))
        self.note("int8", packed)

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        backbone: Backbone = build(self.model, self.vocab, causal=self.causal)
        own = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
        backbone.load_state_dict(own)
        self.backbone = backbone.eval()


def _stored_bytes(weights: Mapping[str, Tensor]) -> int:
    """Bytes of the weights in a file: tensors that share their memory count once."""
    return sum({value.data_ptr(): value.numel() * value.element_size() for value in weights.values()}.values())
