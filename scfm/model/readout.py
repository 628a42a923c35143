"""How the vector of a cell is read from its tokens: the weights that mean pooling does not have."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import PRESENCE, Batch
from scfm.types import Backbone
from scfm.vocab import Vocab

#: Counts of a cell are brought to this sum before their logarithm is taken.
TARGET_SUM = 10_000


class Readout(nn.Module):
    """Weighted pooling: z = sum_t v_t w_g(t) (a e_t / |e_t| + h_t / |h_t|) / sum_t v_t.

    v_t is how much the cell expresses gene g(t), w_g how much gene g tells about cells (its distance from the mean
    profile in the spectral start, 1 without one), e_t the token's input embedding and h_t its state. With states that
    add nothing and embeddings from correspondence analysis this is the projection of the cell onto its axes.

    The weights are no parameters: a start sets them, the checkpoint keeps them, and no loss has to reach them.

    Args:
        n_tokens: V.
        value: v_t. ``counts``: ln(1 + count per 10,000), which wants stores with counts; ``rank``: 1 - rank / length.
        input_weight: a; 0 reads the states alone.

    Raises:
        ValueError: another value, or a negative weight.
    """

    def __init__(self, n_tokens: int, value: Literal["counts", "rank"], input_weight: float) -> None:
        super().__init__()
        if value not in ("counts", "rank"):
            raise ValueError(f"model.embedding_value={value!r}; expected counts or rank")
        if input_weight < 0:
            raise ValueError(f"model.embedding_input={input_weight}; expected a weight of 0 or more")
        self.value, self.input_weight = value, input_weight
        self.token_weight: Tensor
        self.register_buffer("token_weight", torch.ones(n_tokens))

    def forward(self, inputs: Tensor, hidden: Tensor, batch: Batch, vocab: Vocab) -> Tensor:
        """One vector for each cell.

        Args:
            inputs: (T, D) input embeddings of the tokens.
            hidden: (T, D) their states.
            batch: the packed cells.
            vocab: says which tokens are special; these are not read.

        Returns:
            (B, D) of hidden's type; zeros for a cell without a gene.

        Raises:
            ValueError: the value is ``counts`` and the batch has none.
        """
        value = self.values(batch, vocab)
        vectors = F.normalize(hidden.float(), dim=1)
        if self.input_weight:
            vectors = vectors + self.input_weight * F.normalize(inputs.float(), dim=1)
        weight = value * self.token_weight[batch.ids]
        if PRESENCE in batch.token_fields:  # of the path from no gene to the cell; its end is the cell as it is
            weight = weight * batch.token_fields[PRESENCE]
        weighted = vectors * weight.unsqueeze(1)
        total = torch.zeros(batch.n_cells, hidden.shape[1], device=hidden.device).index_add(
            0, batch.token_cell, weighted
        )
        return (total / sum_cells(value, batch).clamp(min=1e-6).unsqueeze(1)).to(hidden.dtype)

    def values(self, batch: Batch, vocab: Vocab) -> Tensor:
        """v_t, (T,) float32; 0 for tokens that are no genes.

        Raises:
            ValueError: the value is ``counts`` and the batch has none.
        """
        special = torch.tensor(sorted(set(vocab.specials.values())), dtype=batch.ids.dtype, device=batch.ids.device)
        gene = (~torch.isin(batch.ids, special)).float()
        if self.value == "rank":
            return gene * (1 - batch.positions / batch.lengths.clamp(min=1)[batch.token_cell])
        if batch.counts is None:
            raise ValueError(
                "this model's embedding weighs genes by their counts (model.embedding_value=counts), but the store "
                "keeps ranks only: prepare it again with keep_counts=true"
            )
        counts = batch.counts.float() * gene
        per_cell = sum_cells(counts, batch).clamp(min=1e-6)
        return torch.log1p(counts * (TARGET_SUM / per_cell)[batch.token_cell])


def sum_cells(values: Tensor, batch: Batch) -> Tensor:
    """(B,) sums of the values (T,) of each cell's tokens."""
    return torch.zeros(batch.n_cells, device=values.device).index_add(0, batch.token_cell, values)


def reads_counts(backbone: Backbone) -> bool:
    """Whether the embeddings of a backbone need the counts behind the tokens."""
    readout = getattr(backbone, "readout", None)
    return readout is not None and readout.value == "counts"
