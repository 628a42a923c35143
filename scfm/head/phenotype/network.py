"""The network from a bag of cells to a phenotype: gated attention over cells, or their mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["attention", "mean"]


class BagNetwork(nn.Module):
    """Gated attention over the cells of each bag (Ilse et al. 2018), and a linear layer of the pooled vector.

    e_i = wᵀ(tanh(V h_i) ⊙ σ(U h_i)), a = softmax_i(e), z = Σ a_i h_i, logits = W z + b. It begins at equal weights: w
    and W are 0, so that attention has to earn any difference from the mean of the cells. With ``branches`` every
    output has an attention of its own (CLAM). With ``inducing`` vectors the cells first read their bag through them
    (one set-attention layer, Lee et al. 2019), linear in cells; there are no positions, so the order of cells cannot
    matter.

    Args:
        width: D of a cell.
        outputs: K.
        hidden: width of V and U.
        pool: ``attention`` or ``mean``.
        branches: one attention for each output instead of one for all.
        inducing: number of inducing vectors; 0 for no context.
        ordinal: outputs share one direction and have falling offsets: logits of y > k.

    Raises:
        ValueError: an unknown pooling.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        hidden: int = 16,
        pool: Pooling = "attention",
        branches: bool = False,
        inducing: int = 0,
        ordinal: bool = False,
    ) -> None:
        super().__init__()
        if pool not in ("attention", "mean"):
            raise ValueError(f"head.pool={pool!r}; expected attention or mean")
        self.pool, self.branches, self.ordinal = pool, branches and not ordinal, ordinal
        self.weight = nn.Parameter(torch.zeros(1 if ordinal else outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if pool == "attention":
            n_maps = outputs if self.branches else 1
            self.tanh, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
            self.score = nn.Parameter(torch.zeros(n_maps, hidden))
        self.context = InducedContext(width, inducing) if inducing else None

    @property
    def is_linear(self) -> bool:
        """Whether logits are a linear map of the mean of the cells."""
        return self.pool == "mean" and self.context is None

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (S, K) and attention (S, n, A), A = K with branches, else 1; padded cells have attention 0.

        Args:
            values: (S, n, D).
            mask: (S, n) bool, cells that are there.
        """
        cells = self.read(values, mask)
        attention = self.attend(cells, mask)
        pooled = torch.einsum("sna,snd->sad", attention, cells)
        return self.combine((pooled * self.weight).sum(-1)), attention

    def read(self, values: Tensor, mask: Tensor) -> Tensor:
        """The cells (S, n, D), after the context where there is one."""
        return values if self.context is None else self.context(values, mask)

    def attend(self, cells: Tensor, mask: Tensor) -> Tensor:
        """Weights (S, n, A) that sum to 1 over the cells of a bag."""
        if self.pool == "mean":
            weight = mask.to(cells.dtype)
            return (weight / weight.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
        gated = torch.tanh(self.tanh(cells)) * torch.sigmoid(self.gate(cells))
        scores = (gated @ self.score.T).masked_fill(~mask.unsqueeze(-1), -1e9)
        return F.softmax(scores, dim=1) * mask.unsqueeze(-1)

    def combine(self, projections: Tensor) -> Tensor:
        """Logits (S, K) from Σ a_i W h_i (S, K), or (S, 1) for ordered classes."""
        offsets: Tensor = self.bias
        if self.ordinal:
            offsets = torch.cat([self.bias[:1], -F.softplus(self.bias[1:])]).cumsum(0)
        return projections + offsets

    def contributions(self, cells: Tensor) -> Tensor:
        """W h_i of each cell, (..., K or 1): what it adds to the logits at weight 1."""
        return cells @ self.weight.T


class InducedContext(nn.Module):
    """ISAB(H) = MAB(H, MAB(I, H)) with m inducing vectors I: cells attend to m summaries of their bag.

    Args:
        width: D.
        n_vectors: m.
    """

    def __init__(self, width: int, n_vectors: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(n_vectors, width) / width**0.5)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """(S, n, D) -> (S, n, D)."""
        keys, content = self.inner(values).chunk(2, -1)
        scale = values.shape[-1] ** -0.5
        scores = torch.einsum("md,snd->smn", self.vectors, keys) * scale
        summary = F.softmax(scores.masked_fill(~mask[:, None], -1e9), -1) @ content
        keys, content = self.outer(summary).chunk(2, -1)
        weights = F.softmax(torch.einsum("snd,smd->snm", values, keys) * scale, -1)
        return values + self.mix(weights @ content)


def instance_loss(scores: Tensor, attention: Tensor, mask: Tensor, cells: int) -> Tensor:
    """The instance term of CLAM: most and least attended cells as pseudo-labeled instances, (S,).

    ℓ = ln(1 + exp(1 − y s)) with y = 1 for the ``cells`` of highest and −1 for those of lowest attention: the smooth
    top-1 SVM of two classes at temperature 1 (Berrada et al. 2018). Bags of fewer than 50 cells have none.

    Args:
        scores: (S, n) contribution of each cell to the true class.
        attention: (S, n).
        mask: (S, n) bool.
        cells: B.
    """
    n = mask.sum(1)
    high = attention.masked_fill(~mask, -1.0).topk(min(cells, mask.shape[1]), dim=1).indices
    low = attention.masked_fill(~mask, 2.0).topk(min(cells, mask.shape[1]), dim=1, largest=False).indices
    loss = F.softplus(1 - scores.gather(1, high)).mean(1) + F.softplus(1 + scores.gather(1, low)).mean(1)
    return torch.where(n >= 50, loss / 2, torch.zeros_like(loss))
