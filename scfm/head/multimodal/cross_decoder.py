"""What both modalities of a cell show, from its place in the space that they share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.blocks import make_folds
from scfm.head.negative_binomial import log_nb

log = logging.getLogger(__name__)

#: Weight of the peaks' cross-entropy beside the likelihood of the counts (BABEL, Wu et al. 2021).
PEAK_WEIGHT = 3.0
#: Penalties that are tried when a decoder is fitted.
PENALTIES = (100.0, 10.0, 1.0)
#: Steps of L-BFGS for a penalty.
STEPS = 20
#: The least share of a gene or of open cells.
LEAST = 1e-6

#: What is decoded: shares of counts, open or closed, or standardized values (NaN where not measured).
Kind = Literal["counts", "open", "values"]


def decoder_loss(kind: Kind, scores: Tensor, truth: Tensor) -> Tensor:
    """Loss of each cell, (B,), from scores and truth (B, F).

    ``counts``: −Σ x ln softmax(score). ``open``: summed binary cross-entropy. ``values``: ½ Σ (score − y)², over what
    was measured.
    """
    if kind == "counts":
        return -(truth * F.log_softmax(scores, 1)).sum(1)
    if kind == "open":
        return F.binary_cross_entropy_with_logits(scores, truth, reduction="none").sum(1)
    known = truth.isfinite()
    return 0.5 * torch.where(known, scores - truth.nan_to_num(), 0.0).square().sum(1)


class Decoder(nn.Module):
    """A linear layer from the shared space: scores z W + b.

    Args:
        kind: of what is decoded.
        width: d of the space.
        features: F.
    """

    def __init__(self, kind: Kind, width: int, features: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.line = nn.Linear(width, features)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, places: Tensor) -> Tensor:
        """Scores (B, F) float32."""
        scores: Tensor = self.line(places).float()
        return scores

    def read(self, places: Tensor) -> Tensor:
        """(B, F): shares of sum 1, probabilities of being open, or standardized values."""
        scores = self(places)
        return {"counts": lambda: scores.softmax(1), "open": scores.sigmoid, "values": lambda: scores}[self.kind]()

    def fit(self, places: np.ndarray, truth: np.ndarray, groups: np.ndarray | None = None) -> None:
        """Begin at a penalized fit, whose penalty is chosen on cells left out.

        Args:
            places: (n, d).
            truth: (n, F).
            groups: (n,) cells that stay together in folds: the two places of a cell among them.
        """
        z, y = torch.from_numpy(places).float(), torch.from_numpy(truth).float()
        bias = _means(self.kind, y)
        folds = make_folds(len(z), groups)
        penalty = PENALTIES[0]
        if folds:
            losses = np.zeros(len(PENALTIES))
            for kept, held in folds:
                weight = None
                for i, candidate in enumerate(PENALTIES):
                    weight = _fit(self.kind, z[kept], y[kept], bias, candidate, weight)
                    losses[i] += float(decoder_loss(self.kind, bias + z[held] @ weight, y[held]).sum())
            penalty = PENALTIES[int(losses.argmin())]
        weight = _fit(self.kind, z, y, bias, penalty, None)
        with torch.no_grad():
            self.line.weight.copy_(weight.T)
            self.line.bias.copy_(bias)
        log.info("A decoder of %d features begins at a fit with penalty %g.", y.shape[1], penalty)


class CrossDecoders(nn.Module):
    """Decoders of both modalities, each read from both places of a cell: four terms (BABEL, Wu et al. 2021).

    L = mean over the places by genes and by the other modality of −log NB(x; n p, θ) / G + 3 BCE / P; for proteins the
    mean squared error stands for 3 BCE / P.

    Args:
        width: d of the shared space.
        n_genes: G.
        n_features: P, of the other modality.
        other: ``open`` or ``values``.
    """

    def __init__(self, width: int, n_genes: int, n_features: int, other: Literal["open", "values"]) -> None:
        super().__init__()
        self.genes = Decoder("counts", width, n_genes)
        self.other = Decoder(other, width, n_features)
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))

    def forward(self, places: tuple[Tensor, Tensor], counts: Tensor, features: Tensor) -> Tensor:
        """The mean of the four terms' sum over cells.

        Args:
            places: (B, d) each, by genes and by the other modality.
            counts: (B, G).
            features: (B, P).
        """
        total = counts.sum(1, keepdim=True)
        terms: list[Tensor] = []
        for place in places:
            mean = total * self.genes.read(place)
            terms.append(-log_nb(counts, mean, self.log_dispersion.clamp(-3, 6).exp()).mean())
            found = decoder_loss(self.other.kind, self.other(place), features)
            if self.other.kind == "open":
                terms.append(PEAK_WEIGHT * found.mean() / features.shape[1])
            else:
                terms.append(2 * found.sum() / features.isfinite().sum().clamp(min=1))
        return torch.stack(terms).sum() / len(places)

    def fit(self, places: tuple[np.ndarray, np.ndarray], counts: np.ndarray, features: np.ndarray) -> None:
        """Begin at penalized fits to both places of the training cells (n, d), counts (n, G), features (n, P)."""
        both, cell = np.concatenate(places), np.tile(np.arange(len(counts)), 2)
        self.genes.fit(both, np.tile(counts, (2, 1)), cell)
        self.other.fit(both, np.tile(features, (2, 1)), cell)


def _means(kind: Kind, truth: Tensor) -> Tensor:
    """The scores (F,) that give the means of the features."""
    if kind == "counts":
        return (truth.sum(0) / truth.sum().clamp(min=1) + LEAST).log()
    if kind == "open":
        return truth.mean(0).clamp(LEAST, 1 - LEAST).logit()
    return truth.nanmean(0).nan_to_num()


def _fit(kind: Kind, places: Tensor, truth: Tensor, bias: Tensor, penalty: float, start: Tensor | None) -> Tensor:
    """W (d, F) that minimizes Σ loss(b + z W) + ½ λ ‖W‖², by L-BFGS from ``start`` (None: 0)."""
    first = torch.zeros(places.shape[1], truth.shape[1]) if start is None else start.clone()
    weight = first.requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=STEPS, history_size=8, line_search_fn="strong_wolfe")
    n = max(len(places), 1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = (decoder_loss(kind, bias + places @ weight, truth).sum() + 0.5 * penalty * weight.square().sum()) / n
        found.backward()
        return found

    closure: Callable[[], Tensor] = loss
    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()
