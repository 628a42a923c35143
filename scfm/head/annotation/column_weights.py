"""How much each label column counts in the loss of a classifier of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class ColumnWeights(nn.Module):
    """The loss of several columns from the loss of each.

    Fixed weights: sum_t w_t L_t. Learned ones: sum_t exp(-s_t) L_t + s_t over the columns with a labeled cell in the
    batch, the weighting by uncertainty of Kendall, Gal and Cipolla 2018 (CVPR, eq. 10, as used with cross-entropy): a
    column whose loss stays large counts less, exp(-s_t) = 1 / L_t at the optimum. The s_t begin at 0, as weights of 1.

    Args:
        labels: the columns.
        weights: one for each, ``learned``, or None: all 1.

    Raises:
        ValueError: weights that are not one number of 0 or more for each column, or nothing to learn.
    """

    def __init__(self, labels: Sequence[str], weights: list[float] | Literal["learned"] | None) -> None:
        super().__init__()
        self.fixed = [1.0] * len(labels)
        self.log_variance: nn.Parameter | None = None
        if weights == "learned":
            if len(labels) < 2:
                raise ValueError(f"head.weights=learned weighs several columns; head.label={list(labels)} is one")
            self.log_variance = nn.Parameter(torch.zeros(len(labels)))
        elif weights is not None:
            self.fixed = list(weights)
        if len(self.fixed) != len(labels) or not all(0 <= weight < float("inf") for weight in self.fixed):
            raise ValueError(
                f"head.weights={weights}; expected a number, 0 or more, for each of {list(labels)}, or learned"
            )

    def forward(self, losses: Sequence[Tensor], n_labeled: Sequence[Tensor]) -> Tensor:
        """The loss of a batch.

        Args:
            losses: of each column, 0 without labeled cells.
            n_labeled: labeled cells of each column.
        """
        each = torch.stack(list(losses))
        if self.log_variance is None:
            return torch.stack([weight * loss for weight, loss in zip(self.fixed, losses, strict=True)]).sum()
        seen = torch.stack(list(n_labeled)) > 0
        return torch.where(seen, torch.exp(-self.log_variance) * each + self.log_variance, 0.0).sum()

    def metrics(self, labels: Sequence[str]) -> dict[str, Tensor]:
        """``weight/COLUMN``, where they are learned."""
        if self.log_variance is None:
            return {}
        return {
            f"weight/{name}": value for name, value in zip(labels, torch.exp(-self.log_variance.detach()), strict=True)
        }
