"""Contrast between views of one cell and other cells of the same experimental batch."""

from __future__ import annotations

import torch
from torch import Tensor

#: Similarity of two cells that must not be compared.
NEVER = float("-inf")


def contrast(
    query: Tensor, positive: Tensor, others: Tensor, allowed: Tensor, *, temperature: float, hardness: float = 0.0
) -> tuple[Tensor, Tensor]:
    """InfoNCE with hard negatives (Robinson et al. 2021), each row with negatives of its own.

    L_i = −log[e^{s_ip/T} / (e^{s_ip/T} + Σ_{k∈N(i)} e^{ℓ_ik})], ℓ_ik = s_ik/T; with hardness β > 0,
    ℓ_ik becomes (β+1) ℓ_ik − log mean_{m∈N(i)} e^{β ℓ_im}.

    Args:
        query: (N, d) unit vectors.
        positive: (N, d) unit vectors, the other view of each.
        others: (M, d) unit vectors.
        allowed: (N, M) bool, N(i); a row without negatives has a loss of 0.
        temperature: T.
        hardness: β.

    Returns:
        The mean loss, and the share of rows whose positive is nearer than every negative.
    """
    same = (query * positive).sum(1, keepdim=True) / temperature
    scores = (query @ others.T / temperature).masked_fill(~allowed, NEVER)
    accuracy = (same > scores).all(dim=1).float().mean()
    if hardness > 0:
        count = allowed.sum(1, keepdim=True)
        tilt = (hardness * scores).masked_fill(count == 0, 0.0)
        mean = torch.logsumexp(tilt, dim=1, keepdim=True) - count.clamp(min=1).log()
        scores = ((hardness + 1) * scores - mean).masked_fill(~allowed, NEVER)
    loss = torch.logsumexp(torch.cat([same, scores], dim=1), dim=1) - same.squeeze(1)
    return loss.mean(), accuracy


def nt_xent(
    one: Tensor, two: Tensor, batches: Tensor, *, temperature: float, hardness: float = 0.0
) -> tuple[Tensor, Tensor]:
    """NT-Xent (Chen et al. 2020) over two views, with negatives of the query's own batch alone (Concerto, CONCORD).

    Over the 2B vectors, p(i) is the other view and N(i) all others with i's batch. A cell whose batch is missing has
    no negatives.

    Args:
        one: (B, d) unit vectors.
        two: (B, d) unit vectors, row by row of the same cells.
        batches: (B,) batch codes, -1 where missing.
        temperature: T of :func:`contrast`.
        hardness: β of :func:`contrast`.

    Returns:
        Loss and accuracy, see :func:`contrast`.
    """
    both = torch.cat([one, two])
    allowed = same_batch(batches, batches).repeat(2, 2)
    itself = torch.eye(len(one), dtype=torch.bool, device=one.device).repeat(2, 2)
    return contrast(both, torch.cat([two, one]), both, allowed & ~itself, temperature=temperature, hardness=hardness)


def same_batch(one: Tensor, two: Tensor) -> Tensor:
    """Which pairs are of one batch, (N, M) bool; a missing batch (negative) matches none."""
    return (one[:, None] == two[None, :]) & (one[:, None] >= 0)
