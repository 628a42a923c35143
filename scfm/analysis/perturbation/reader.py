"""Embeddings of many token lists: packed, without the layers and scores that nobody reads, equal lists once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from scfm.batch import Batch
from scfm.data.packing import pack
from scfm.inference.model import Model
from scfm.model.early_exit import hidden_until
from scfm.model.pooling import read_cells
from scfm.model.readout import reads_counts
from scfm.tokenizer import Tokenizer
from scfm.types import Backbone, Ragged
from scfm.vocab import Vocab


class Reader:
    """Embeds lists of genes by the backbone's own rule.

    Args:
        backbone: in evaluation mode.
        vocab: its tokens.
        frame: ids of the special tokens before and after the genes of a cell.
        tokens: of a batch, at most (the longest list fits in any case).
        device: where the backbone computes.
        bf16: matrix products in bfloat16, of all lists alike.
    """

    def __init__(
        self, backbone: Backbone, vocab: Vocab, frame: tuple[Sequence[int], Sequence[int]], tokens: int, device: str,
        *, bf16: bool = False,
    ) -> None:  # fmt: skip
        self.backbone, self.vocab, self.tokens, self.device = backbone, vocab, tokens, device
        self.bf16 = bf16
        self.before, self.after = (np.array(ids, dtype=np.int64) for ids in frame)

    def embed(self, lists: Sequence[np.ndarray]) -> np.ndarray:
        """(n, D) float64: the embedding of each list of genes; equal lists are read once."""
        places: dict[bytes, int] = {}
        which = np.array([places.setdefault(genes.tobytes(), len(places)) for genes in lists], dtype=np.int64)
        first = np.zeros(len(places), dtype=np.int64)
        first[which[::-1]] = np.arange(len(lists))[::-1]
        out = np.empty((len(places), self.backbone.width), dtype=np.float64)
        for batch in self._batches([lists[int(i)] for i in first]):
            out[batch.index.numpy()] = self._pooled(batch)
        return out[which]

    def states(self, lists: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For each list the states (n genes, D) float64 of its genes, in the list's order."""
        out: list[np.ndarray] = [np.empty(0)] * len(lists)
        begin, end = len(self.before), len(self.after)
        for batch in self._batches(lists):
            states, edges = self._hidden(batch).double().cpu().numpy(), batch.boundaries.tolist()
            for cell, low, high in zip(batch.index.tolist(), edges, edges[1:], strict=False):
                out[cell] = states[low + begin : high - end]
        return out

    def _batches(self, lists: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Lists of equal length lie together: attention takes them in one call."""
        extra = len(self.before) + len(self.after)
        lengths = np.array([len(genes) + extra for genes in lists], dtype=np.int64)
        held: list[int] = []
        total = 0
        for i in np.argsort(-lengths, kind="stable"):
            if held and total + lengths[i] > self.tokens:
                yield self._packed(lists, held)
                held, total = [], 0
            held.append(int(i))
            total += int(lengths[i])
        if held:
            yield self._packed(lists, held)

    def _packed(self, lists: Sequence[np.ndarray], chosen: list[int]) -> Batch:
        parts = [part for i in chosen for part in (self.before, lists[i], self.after)]
        extra = len(self.before) + len(self.after)
        offsets = np.concatenate([[0], np.cumsum([len(lists[i]) + extra for i in chosen])])
        return pack(Ragged(np.concatenate(parts), offsets), np.array(chosen))

    @torch.inference_mode()
    def _hidden(self, batch: Batch) -> torch.Tensor:
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.bf16):
            return hidden_until(self.backbone, batch.to(self.device), self.backbone.embedding_layer)

    @torch.inference_mode()
    def _pooled(self, batch: Batch) -> np.ndarray:
        batch = batch.to(self.device)
        return read_cells(self.backbone, self._hidden(batch), batch, self.vocab).double().cpu().numpy()


def make_reader(
    model: Model, tokenizer: Tokenizer, tokens: int, backbone: Backbone | None = None, *, bf16: bool = False
) -> Reader:
    """A reader of a model's backbone, or of another one of the same vocabulary.

    Args:
        model: brings vocabulary and device.
        tokenizer: says which special tokens frame a cell.
        tokens: of a batch, at most.
        backbone: None for the model's own.
        bf16: see :class:`Reader`.

    Raises:
        ValueError: the embedding reads counts, which a list of genes does not have.
    """
    if reads_counts(model.backbone):
        raise ValueError(
            f"the embedding of {model.checkpoint.path} weighs genes by their counts, and perturbed cells are lists of "
            "ranked genes: take a model that was trained with model.embedding_value=rank or model.embedding_pool=mean"
        )
    vocab = tokenizer.require_vocab()
    before, after = ([vocab.special(role) for role in roles] for roles in tokenizer.roles)
    return Reader(backbone or model.backbone, vocab, (before, after), tokens, str(model.module.device), bf16=bf16)
