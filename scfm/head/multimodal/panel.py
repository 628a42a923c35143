"""Proteins as targets: their scale, the loss of mean and quantiles, and intervals that cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.cells.protein_names import is_isotype
from scfm.cells.source import did_you_mean
from scfm.types import PROTEIN, Spec

Transform = Literal["log1p", "clr", "none"]
TRANSFORMS: tuple[Transform, ...] = ("log1p", "clr", "none")
#: A protein that fewer training cells have is not learned.
MIN_CELLS = 10


class Panel(nn.Module):
    """The scale of the proteins of a panel, over the training cells that have them.

    Args:
        n_proteins: P.
        transform: ``log1p`` is ln(1 + c); ``clr`` is ln(1 + c) less its mean over the proteins of the cell
            (Stoeckius et al. 2017), which needs one panel; ``none`` takes values as they are.

    Attributes:
        mean, sd: (P,) moments of the transformed values.
        learned: (P,) bool, proteins that vary over at least ten training cells.
    """

    mean: Tensor
    sd: Tensor
    learned: Tensor

    def __init__(self, n_proteins: int, transform: Transform) -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(f"head.transform={transform!r}; expected {', '.join(TRANSFORMS)}")
        self.transform = transform
        self.register_buffer("mean", torch.zeros(n_proteins))
        self.register_buffer("sd", torch.ones(n_proteins))
        self.register_buffer("learned", torch.zeros(n_proteins, dtype=torch.bool))

    def fit(self, values: np.ndarray) -> None:
        """Learn the scale from training cells (n, P), NaN where not measured.

        Raises:
            ValueError: values that the transform is not for.
        """
        self._require(values)
        changed = self.transformed(torch.from_numpy(values.astype(np.float32))).numpy().astype(np.float64)
        known = np.isfinite(changed)
        n = known.sum(axis=0)
        mean = np.where(known, changed, 0).sum(axis=0) / n.clip(min=1)
        sd = np.sqrt((np.where(known, changed - mean, 0) ** 2).sum(axis=0) / n.clip(min=1))
        learned = (n >= MIN_CELLS) & (sd > 1e-6)
        self.mean.copy_(torch.from_numpy(mean))
        self.sd.copy_(torch.from_numpy(np.where(learned, sd, 1.0)))
        self.learned.copy_(torch.from_numpy(learned))

    def _require(self, values: np.ndarray) -> None:
        known = np.isfinite(values)
        if self.transform == "none":
            return
        wrong = values[known & ((values < 0) | (values != np.rint(values)))]
        if len(wrong):
            raise ValueError(
                f"head.transform={self.transform} takes counts, but the proteins of the store hold {wrong[0]:.4g} "
                "(side.raw=false): set head.transform=none"
            )
        if self.transform == "clr" and len(np.unique(known[known.any(axis=1)], axis=0)) > 1:
            raise ValueError(
                "head.transform=clr subtracts the mean of a panel, but the cells have different panels: name proteins "
                "that all of them have (head.panel='[CD3,CD4]'), or set head.transform=log1p"
            )

    def transformed(self, values: Tensor) -> Tensor:
        """The units of the predictions, (B, P), NaN where not measured."""
        if self.transform == "none":
            return values
        logs = values.clamp(min=0).log1p()
        return logs - logs.mean(dim=1, keepdim=True) if self.transform == "clr" else logs

    def standardize(self, values: Tensor) -> Tensor:
        """Values as (y − mean) / sd, (B, P) float32; NaN where not measured or not learned."""
        scaled = (self.transformed(values.float()) - self.mean) / self.sd
        return torch.where(self.learned, scaled, torch.nan)

    def restore(self, scaled: Tensor) -> Tensor:
        """Transformed values (..., P) from z; NaN for a protein that was not learned."""
        return torch.where(self.learned, scaled * self.sd + self.mean, torch.nan)


def order_quantiles(raw: Tensor) -> Tensor:
    """Quantiles that cannot cross, (B, P, Q): the first, and the others by softplus steps above it."""
    steps = torch.cat([raw[..., :1], F.softplus(raw[..., 1:])], dim=-1)
    return steps.cumsum(dim=-1)


def pinball_loss(truth: Tensor, predicted: Tensor, levels: Sequence[float]) -> Tensor:
    """Σ_q max(q u, (q − 1) u) with u = y − ŷ_q (Koenker and Bassett 1978).

    Args:
        truth: (...,) y.
        predicted: (..., Q) ŷ_q.
        levels: the Q quantiles q.
    """
    q = torch.tensor(tuple(levels), dtype=predicted.dtype, device=predicted.device)
    u = truth.unsqueeze(-1) - predicted
    return torch.maximum(q * u, (q - 1) * u).sum(dim=-1)


def protein_loss(
    mean: Tensor, quantiles: Tensor, truth: Tensor, levels: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over the observed entries of (ŷ − y)² + pinball: a panel that few cells have counts by its own entries.

    Args:
        mean: (B, P) ŷ.
        quantiles: (B, P, Q) ŷ_q.
        truth: (B, P) y, NaN where not measured.
        levels: the Q quantiles.

    Returns:
        The loss (0 where nothing is observed), its squared part, and the number of observed entries.
    """
    known = truth.isfinite()
    n = known.sum()
    y = torch.where(known, truth, 0.0)
    squared = torch.where(known, (mean - y) ** 2, 0.0).sum() / n.clamp(min=1)
    pinball = torch.where(known, pinball_loss(y, quantiles, levels), 0.0).sum() / n.clamp(min=1)
    return squared + pinball, squared, n


def widen_intervals(low: np.ndarray, high: np.ndarray, truth: np.ndarray, coverage: float) -> np.ndarray:
    """How far each interval must grow on both sides to cover (conformalized quantile regression, Romano et al. 2019).

    Args:
        low: (n, P) lower ends.
        high: (n, P) upper ends.
        truth: (n, P), NaN where not measured.
        coverage: share of cells that should lie inside.

    Returns:
        (P,) the ⌈coverage (n + 1)⌉-th smallest of max(low − y, y − high), the largest where n is small; negative where
        intervals are too wide; 0 for a protein without cells.
    """
    widened = np.zeros(truth.shape[1], dtype=np.float32)
    for protein in range(truth.shape[1]):
        known = np.isfinite(truth[:, protein]) & np.isfinite(low[:, protein])
        if known.any():
            y = truth[known, protein]
            missed = np.sort(np.maximum(low[known, protein] - y, y - high[known, protein]))
            place = int(np.ceil(coverage * (len(missed) + 1))) - 1
            widened[protein] = missed[min(place, len(missed) - 1)]
    return widened


def require_quantiles(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels of quantiles.

    Raises:
        ValueError: fewer than two, not ascending, or outside 0 to 1.
    """
    found = tuple(float(level) for level in levels)
    if len(found) < 2 or list(found) != sorted(set(found)) or found[0] <= 0 or found[-1] >= 1:
        raise ValueError(f"head.quantiles={list(found)}; expected at least two levels between 0 and 1, ascending")
    return found


def choose_proteins(spec: Spec, panel: Sequence[str] | None) -> tuple[tuple[str, ...], list[int]]:
    """The proteins to learn and their columns in the store.

    Raises:
        ValueError: a store without proteins, or names that it does not have.
    """
    have = spec.fields.get(PROTEIN, ())
    if not have:
        raise ValueError(
            "head=multimodal/protein learns from measured proteins, but the store keeps none: prepare it again with "
            "side.protein=auto from files that have them (.h5mu, a table in obsm, or a further feature type)"
        )
    if panel is None:
        panel = [name for name in have if not is_isotype(name)]
        if not panel:
            raise ValueError(f"the store has isotype controls alone ({', '.join(have)}): there is nothing to learn")
    if not panel:
        raise ValueError("head.panel is empty; name proteins, or set head.panel=null for all")
    unknown = next((name for name in panel if name not in have), None)
    if unknown is not None:
        raise ValueError(f"head.panel names {unknown!r}; {did_you_mean(unknown, have)}")
    twice = next((name for name in panel if list(panel).count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"head.panel names {twice!r} twice")
    return tuple(panel), [have.index(name) for name in panel]
