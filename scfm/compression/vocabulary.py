"""A model of fewer genes: rows of unknown genes are the bulk of a small one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfm.batch import Batch
from scfm.store.token_store import TokenStore
from scfm.vocab import Vocab


def used_tokens(store: TokenStore, min_cells: int) -> np.ndarray:
    """Ids of the special tokens and of the genes that ``min_cells`` cells of a store hold, ascending.

    Args:
        store: of the model's vocabulary.
        min_cells: at least.

    Raises:
        ValueError: no gene is in so many cells.
    """
    counts = np.zeros(len(store.vocab), dtype=np.int64)
    for rows in np.array_split(np.arange(len(store)), max(1, len(store) // 100_000)):
        counts += np.bincount(store.gather(rows, None).values, minlength=len(counts))  # a cell has a token once
    keep = counts >= min_cells
    genes = int(keep[store.vocab.gene_ids].sum())
    if not genes:
        raise ValueError(f"min_cells={min_cells}: no gene is in so many of the {len(store)} cells of {store.path}")
    keep[sorted({*store.vocab.specials.values(), *store.vocab.words})] = True
    return np.flatnonzero(keep)


def prune_tokenizer(state: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    """The state of a tokenizer whose vocabulary has only some of its tokens, in their order.

    Args:
        state: see :meth:`scfm.tokenizer.Tokenizer.to_dict`.
        kept: ids, ascending, specials among them.
    """
    vocab = Vocab.from_dict(state["vocab"])
    new = {int(old): place for place, old in enumerate(kept)}
    tokens = tuple(vocab.tokens[old] for old in kept)
    small = Vocab(
        tokens, {role: new[i] for role, i in vocab.specials.items()}, tuple(new[i] for i in vocab.words if i in new)
    )
    names = set(tokens)
    found = {**state, "vocab": small.to_dict()}
    found["alias"] = {target: list(sources) for target, sources in state["alias"].items() if target in names}
    if found.get("medians") is not None:
        found["medians"] = [found["medians"][old] for old in kept]
    return found


def prune_weights(weights: Mapping[str, Tensor], n_tokens: int, kept: np.ndarray) -> dict[str, Tensor]:
    """Weights whose first axis is the vocabulary, with the kept rows; all else as it is.

    Args:
        weights: by name.
        n_tokens: V.
        kept: ids, ascending.

    Raises:
        ValueError: another axis has the length of the vocabulary, so that they cannot be told apart.
    """
    doubtful = [name for name, value in weights.items() if n_tokens in value.shape[1:]]
    if doubtful:
        raise ValueError(
            f"{doubtful[0]} has an axis as long as the vocabulary ({n_tokens}) that is not its first: genes cannot be "
            "pruned from it"
        )
    rows = torch.from_numpy(kept)
    return {
        name: value[rows].clone() if value.ndim and value.shape[0] == n_tokens else value
        for name, value in weights.items()
    }


def known_tokens(batch: Batch, kept: np.ndarray, n_tokens: int) -> Batch:
    """A batch in the ids of a pruned vocabulary; genes that it does not have are left out.

    Args:
        batch: packed cells in the old ids.
        kept: old ids, ascending.
        n_tokens: V before.
    """
    table = torch.full((n_tokens,), -1, dtype=torch.int64)
    table[torch.from_numpy(kept)] = torch.arange(len(kept))
    table = table.to(batch.ids.device)
    inside = (table[batch.ids] >= 0).nonzero().squeeze(1)
    part = batch.select_tokens(inside)
    return part.replace_tokens(table[part.ids])
