"""A cell's embedding as the best prediction of another measurement of it: linear in its genes, corrected by states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.batch import PRESENCE, Batch
from scfm.model.readout import Readout, sum_cells
from scfm.vocab import Vocab

#: Width of the correction, in widths of the embedding.
HIDDEN = 4


class Denoiser(Readout):
    """``embedding_pool=denoised``: z = y W + f(y, s).

    y = sum_t v_t a_g(t) / sum_t v_t - c are the gene axes of a cell, v_t = ln(1 + count per 10,000). The axes a, their
    center c and W come from a start (:mod:`scfm.model.start.axes`): W is the ridge regression of the axes of one half
    of a cell's counts on those of the other half, so y W is the best linear prediction of what another measurement of
    the cell would show. s is the mean of the layers' states, weighted by v_t w_g, and f two linear layers with a GELU
    between; the last one begins at 0, so a model that has learned nothing gives y W.

    Only f and the layers are trained (:class:`scfm.objective.mlm_denoise.MLMDenoise`); axes, center and W are kept by
    the checkpoint.

    Args:
        n_tokens: V.
        width: D, of the states and of the embedding.
        dropout: of f.
    """

    def __init__(self, n_tokens: int, width: int, dropout: float) -> None:
        super().__init__(n_tokens, "counts", 0.0)
        self.axes: Tensor
        self.center: Tensor
        self.linear: Tensor
        with torch.random.fork_rng(devices=[]):  # without a start the axes are random, as all else is then
            self.register_buffer("axes", torch.randn(n_tokens, width))
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("linear", torch.eye(width))
        self.norm = nn.LayerNorm(width)
        last = nn.Linear(HIDDEN * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(2 * width, HIDDEN * width)
        self.correction = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), last)

    def forward(self, inputs: Tensor, hidden: Tensor, batch: Batch, vocab: Vocab, whole: Batch | None = None) -> Tensor:
        """One vector for each cell.

        Args:
            inputs: see :class:`~scfm.model.readout.Readout`; not read.
            hidden: (T, D) states of the tokens of ``batch``.
            batch: the packed cells as the layers read them.
            vocab: says which tokens are special.
            whole: the same cells with all their tokens; ``batch`` where the layers read all.

        Returns:
            (B, D) of hidden's type; y W of a cell without a gene is -c W.

        Raises:
            ValueError: the batch has no counts.
        """
        cell_axes = self.project(batch if whole is None else whole, vocab)
        correction = self.correct(cell_axes, super().forward(inputs, hidden, batch, vocab).float())
        return (cell_axes @ self.linear + correction).to(hidden.dtype)

    def correct(self, cell_axes: Tensor, states: Tensor) -> Tensor:
        """F of the axes (B, D) and of the pooled states (B, D)."""
        found: Tensor = self.correction(torch.cat([cell_axes, self.norm(states)], 1))
        return found

    def project(self, batch: Batch, vocab: Vocab) -> Tensor:
        """The axes y of each cell, (B, D) float32."""
        value = self.values(batch, vocab)
        weight = value * batch.token_fields.get(PRESENCE, 1)
        total = torch.zeros(batch.n_cells, self.axes.shape[1], device=value.device)
        total = total.index_add(0, batch.token_cell, F.embedding(batch.ids, self.axes).float() * weight.unsqueeze(1))
        return total / sum_cells(value, batch).clamp(min=1e-6).unsqueeze(1) - self.center.float()
