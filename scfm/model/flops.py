"""Work of a training step: FLOPs for each real token, the share of the hardware used, and a roofline.

Counted as llm-foundry and PaLM do: matrix products only, forward and backward, no recomputation, the attention term not
halved for causal models, embedding lookups not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Dense bfloat16 (V100: float16) FLOP/s of the data sheets, by a part of the device's name.
PEAK = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "V100": 125e12}


@dataclass(frozen=True)
class Work:
    """What a model does for each token.

    Attributes:
        layers: number of layers.
        width: D.
        feedforward: width of the feed-forward layers.
        vocab: V.
        transform: whether a (D, D) layer comes before the vocabulary (BERT's does, GPT-2's not).
        predicted: predicted tokens / tokens: 0.15 for masked, 1 for next-gene prediction.
    """

    layers: int
    width: int
    feedforward: int
    vocab: int
    transform: bool
    predicted: float

    @property
    def linear(self) -> float:
        """FLOPs of the layers' matrix products for each token: ``6 layers (4 D^2 + 2 D feedforward)``."""
        return 6 * self.layers * (4 * self.width**2 + 2 * self.width * self.feedforward)

    def attention(self, mean_length: float) -> float:
        """FLOPs of scores and weighted sums for each token: ``12 layers D Tbar``.

        Args:
            mean_length: Tbar, see :func:`mean_length`.
        """
        return 12 * self.layers * self.width * mean_length

    @property
    def head(self) -> float:
        """FLOPs of the predictions for each token: ``6 (V D + D^2) f``."""
        return 6 * (self.vocab * self.width + self.transform * self.width**2) * self.predicted

    def per_token(self, mean_length: float) -> float:
        """All FLOPs for each token, forward and backward."""
        return self.linear + self.attention(mean_length) + self.head

    def roof(
        self,
        mean_length: float,
        *,
        products: float = 790e12,
        attention: float = 450e12,
        bandwidth: float = 4.3e12,
    ) -> float:
        """Tokens per second that one device could reach; the defaults are an H200's.

        The activations' traffic, ``2 layers (64 D + 9 feedforward)`` bytes a token, is shared between the linear layers
        (3/4) and attention (1/4); each takes the longer of computing and moving.

        Args:
            mean_length: Tbar, see :func:`mean_length`.
            products: FLOP/s that matrix products reach.
            attention: FLOP/s that attention reaches.
            bandwidth: bytes/s of memory.
        """
        traffic = 2 * self.layers * (64 * self.width + 9 * self.feedforward) / bandwidth
        linear = max(self.linear / products, 0.75 * traffic)
        inside = max(self.attention(mean_length) / attention, 0.25 * traffic)
        return 1 / (linear + inside + self.head / products)

    def utilization(self, tokens_per_second: float, mean_length: float, peak: float) -> float:
        """Model FLOPs utilization of one device: real tokens over wall time, against its data-sheet peak."""
        return self.per_token(mean_length) * tokens_per_second / peak


def mean_length(lengths: Sequence[int]) -> float:
    """Tbar = sum of squared lengths / sum of lengths: the length of the cell that an average token is in."""
    return sum(n * n for n in lengths) / max(1, sum(lengths))


def peak_of(device: str) -> float | None:
    """Data-sheet FLOP/s of a device by its name, or None for one that is not listed."""
    return next((peak for name, peak in PEAK.items() if name in device), None)
