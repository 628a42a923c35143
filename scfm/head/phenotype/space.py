"""The space in which the cells of samples are pooled: few directions of their states."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class SampleSpace(nn.Module):
    """States of cells, centered, on their first principal directions; samples count alike in both.

    With types, the mean of a cell's type over the training samples is subtracted, so that composition cannot help.

    Args:
        state: D' of the states.
        width: k directions.
        n_types: types whose means are subtracted; 0 for none.

    Attributes:
        center: (D',), the mean training sample.
        directions: (D', k), of which the training cells have a mean square of 1 an entry.
        types: (n_types + 1, k) means of types; the last row, for cells without a known type, is 0.
    """

    center: Tensor
    directions: Tensor
    types: Tensor

    def __init__(self, state: int, width: int, n_types: int = 0) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("center", torch.zeros(state))
        self.register_buffer("directions", torch.zeros(state, width))
        self.register_buffer("types", torch.zeros(n_types + 1, width))

    def fit(self, states: np.ndarray, place: np.ndarray, types: np.ndarray | None = None) -> None:
        """Fit on the cells of training samples.

        Args:
            states: (n, D').
            place: (n,) sample of each cell, -1 for cells that take no part.
            types: (n,) type of each, -1 where unknown.
        """
        rows = np.flatnonzero(place >= 0)
        sizes = np.bincount(place[rows])
        weight = 1.0 / sizes[place[rows]]
        weight /= weight.sum()
        values = states[rows].astype(np.float64)
        mean = weight @ values
        centered = values - mean
        spread, vectors = np.linalg.eigh((centered * weight[:, None]).T @ centered)
        k = min(self.width, len(spread))
        vectors = vectors[:, ::-1][:, :k]
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(k)] < 0, -1, 1)
        scale = np.sqrt(max(spread[::-1][:k].mean(), 1e-12))
        self.center.copy_(torch.from_numpy(mean).to(self.center))
        self.directions.zero_()
        self.directions[:, :k] = torch.from_numpy(vectors / scale).to(self.directions)
        self.types.zero_()
        if len(self.types) > 1:
            assert types is not None, "the head was made with types"
            low = torch.from_numpy(centered @ vectors / scale).to(self.types)
            for code in range(len(self.types) - 1):
                own = types[rows] == code
                if own.any():
                    self.types[code, :k] = low[torch.from_numpy(own).to(low.device)].mean(0)

    def forward(self, states: Tensor, types: Tensor | None = None) -> Tensor:
        """(n, D') -> (n, k) float32; ``types`` (n,) codes, -1 where unknown."""
        low = (states.float() - self.center) @ self.directions
        if len(self.types) == 1:
            return low
        assert types is not None, "the head was made with types"
        return low - self.types[torch.where(types < 0, len(self.types) - 1, types)]
