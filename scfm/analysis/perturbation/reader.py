"""Embeddings of many gene lists: packed, without the layers and scores that nobody reads, equal lists once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import torch

from scfm.analysis.perturbation.operations import GeneList
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
        self.bf16, self.counts = bf16, reads_counts(backbone)
        self.before, self.after = (np.array(ids, dtype=np.int64) for ids in frame)
        self.layer_length: int | None = getattr(backbone, "layer_length", None)

    def embed(self, lists: Sequence[GeneList]) -> np.ndarray:
        """(n, D) float64: the embedding of each list of genes.

        Equal lists are read once, and so are lists whose first genes, those that the layers read, are the same: they
        have the same states, and only the counts or the genes behind them differ.
        """
        keys = [(one.genes.tobytes(), one.counts.tobytes() if self.counts else b"") for one in lists]
        first, which = _distinct(keys)
        distinct = [lists[i] for i in first]
        framed = [np.concatenate([self.before, one.genes, self.after])[: self.layer_length] for one in distinct]
        shown, state = _distinct(ids.tobytes() for ids in framed)
        members = _members(state)
        out = np.empty((len(distinct), self.backbone.width), dtype=np.float64)
        for chosen in _fill([len(framed[i]) for i in shown], self.tokens):
            hidden = self._hidden(_pack([framed[shown[i]] for i in chosen], chosen))
            pieces = dict(zip(chosen, hidden.split([len(framed[shown[i]]) for i in chosen]), strict=True))
            readers = [member for i in chosen for member in members[i]]
            lengths = [len(distinct[i].genes) + len(self.before) + len(self.after) for i in readers]
            for part in _fill(lengths, self.tokens, keep_order=True):
                own = [readers[i] for i in part]
                out[own] = self._pooled([distinct[i] for i in own], [pieces[state[i]] for i in own])
        return out[which]

    def states(self, lists: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For each list of gene ids the states (n genes, D) float64 of those that the layers read, in its order."""
        out: list[np.ndarray] = [np.empty(0)] * len(lists)
        framed = [np.concatenate([self.before, genes, self.after])[: self.layer_length] for genes in lists]
        begin = len(self.before)
        for chosen in _fill(list(map(len, framed)), self.tokens):
            batch = _pack([framed[i] for i in chosen], chosen)
            states, edges = self._hidden(batch).double().cpu().numpy(), batch.boundaries.tolist()
            for i, low, high in zip(chosen, edges, edges[1:], strict=False):
                out[i] = states[low + begin : high][: len(lists[i])]
        return out

    @torch.inference_mode()
    def _hidden(self, batch: Batch) -> torch.Tensor:
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.bf16):
            return hidden_until(self.backbone, batch.to(self.device), self.backbone.embedding_layer)

    @torch.inference_mode()
    def _pooled(self, lists: Sequence[GeneList], states: Sequence[torch.Tensor]) -> np.ndarray:
        """(n, D) embeddings of lists whose first tokens have these states."""
        whole = _pack([np.concatenate([self.before, one.genes, self.after]) for one in lists], range(len(lists)))
        if self.counts:
            around = np.zeros(len(self.before)), np.zeros(len(self.after))
            counts = np.concatenate([part for one in lists for part in (around[0], one.counts, around[1])])
            whole = whole.with_token_field("counts", torch.from_numpy(counts.astype(np.float32)))
        whole = whole.to(self.device)
        short = whole.shortened(self.layer_length)
        return read_cells(self.backbone, torch.cat(list(states)), short, self.vocab, whole).double().cpu().numpy()


def _distinct(keys: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """Places where keys come for the first time, and for every key which of these has it."""
    number: dict[Hashable, int] = {}
    first: list[int] = []
    which: list[int] = []
    for place, key in enumerate(keys):
        if key not in number:
            number[key] = len(first)
            first.append(place)
        which.append(number[key])
    return first, which


def _members(group: Sequence[int]) -> list[list[int]]:
    """Places of each group."""
    out: list[list[int]] = [[] for _ in range(max(group, default=-1) + 1)]
    for place, number in enumerate(group):
        out[number].append(place)
    return out


def _fill(lengths: Sequence[int], budget: int, *, keep_order: bool = False) -> Iterator[list[int]]:
    """Places of lists that make a batch; those of equal length lie together, so that attention takes them in one call.

    Args:
        lengths: of the lists.
        budget: tokens of a batch, at most (the longest list fits in any case).
        keep_order: take them as they come.
    """
    held: list[int] = []
    total = 0
    order = range(len(lengths)) if keep_order else np.argsort(-np.asarray(lengths), kind="stable").tolist()
    for i in order:
        if held and total + lengths[i] > budget:
            yield held
            held, total = [], 0
        held.append(i)
        total += lengths[i]
    if held:
        yield held


def _pack(rows: Sequence[np.ndarray], index: Sequence[int]) -> Batch:
    return pack(Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum(list(map(len, rows)))])), np.array(index))


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
    """
    vocab = tokenizer.require_vocab()
    before, after = ([vocab.special(role) for role in roles] for roles in tokenizer.roles)
    return Reader(backbone or model.backbone, vocab, (before, after), tokens, str(model.module.device), bf16=bf16)
