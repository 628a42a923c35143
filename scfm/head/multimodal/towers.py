"""What a head reads of the second modality of a cell: chromatin peaks or proteins, as a vector."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from scfm.head.layers import perceptron
from scfm.head.multimodal.panel import Panel

log = logging.getLogger(__name__)

#: A peak is read if it is open in at least this share of the training cells.
MIN_SHARE = 0.01
#: Frequencies of peaks are multiplied by this before their logarithm.
DEPTH = 10_000.0


class PeakComponents(nn.Module):
    """Latent semantic components of open peaks.

    x_j = ln(1 + 10,000 · idf_j / n) for the n open peaks j of a cell, with idf_j = ln(1 + N / N_j) over N training
    cells of which N_j have the peak open; then the right singular vectors of x without the first one, which follows
    depth (Cusanovich et al. 2015; Stuart et al. 2021). They are fitted once and saved with the head.

    Args:
        n_peaks: P.
        width: number of components k.

    Attributes:
        idf: (P,), 0 for peaks that are not read.
        loadings: (P, k).
        center: (k,) components of the average training cell.
    """

    idf: Tensor
    loadings: Tensor
    center: Tensor

    def __init__(self, n_peaks: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("idf", torch.zeros(n_peaks))
        self.register_buffer("loadings", torch.zeros(n_peaks, width))
        self.register_buffer("center", torch.zeros(width))

    def fit(self, peaks: np.ndarray) -> None:
        """Fit on the open peaks of training cells, (n, K) int64, -1 after the last.

        Raises:
            ValueError: too few cells, or no peak is open in 1 % of them.
        """
        from sklearn.utils.extmath import randomized_svd

        known = peaks >= 0
        n = len(peaks)
        n_open = np.bincount(peaks[known], minlength=len(self.idf))
        kept = n_open >= max(1.0, MIN_SHARE * n)
        if n < 3 or not kept.any():
            raise ValueError(f"no peak is open in {MIN_SHARE:.0%} of the {n} training cells: there is nothing to learn")
        self.idf.copy_(torch.from_numpy(np.where(kept, np.log1p(n / n_open.clip(min=1)), 0.0)))
        values = self._matrix(peaks)
        size = min(self.width + 1, min(values.shape) - 1)
        _, _, axes = randomized_svd(values.astype(np.float64), size, random_state=0)
        found = values @ axes[1:].T
        scale = np.sqrt(self.width / max(((found - found.mean(axis=0)) ** 2).sum(axis=1).mean(), 1e-12))
        self.loadings[:, : size - 1] = torch.from_numpy(axes[1:].T * scale).to(self.loadings)
        self.center[: size - 1] = torch.from_numpy(found.mean(axis=0) * scale).to(self.center)
        log.info("%d of %d peaks are open in %.0f %% of the cells and read.", kept.sum(), len(kept), 100 * MIN_SHARE)

    def _matrix(self, peaks: np.ndarray) -> csr_matrix:
        known = (peaks >= 0) & (self.idf.cpu().numpy()[peaks.clip(min=0)] > 0)
        columns = peaks[known]
        n = np.repeat(known.sum(axis=1), known.sum(axis=1))
        values = np.log1p(DEPTH * self.idf.cpu().numpy()[columns] / n)
        offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        return csr_matrix((values, columns, offsets), shape=(len(peaks), len(self.idf)))

    def forward(self, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """Components (B, k) float32 from open peaks (B, K), and (B,) bool, cells with any that is read."""
        known = (peaks >= 0) & (self.idf[peaks.clamp(min=0)] > 0)
        n = known.sum(dim=1)
        columns = peaks[known]
        weights = (DEPTH * self.idf[columns] / torch.repeat_interleave(n, n)).log1p()
        offsets = F.pad(n.cumsum(0)[:-1], (1, 0))
        summed = F.embedding_bag(columns, self.loadings, offsets, mode="sum", per_sample_weights=weights)
        return summed - self.center, n > 0


class PanelValues(nn.Module):
    """Standardized proteins, 0 where not measured.

    Args:
        n_proteins: P.
    """

    def __init__(self, n_proteins: int) -> None:
        super().__init__()
        self.width = n_proteins
        self.panel = Panel(n_proteins, "log1p")

    def fit(self, values: np.ndarray) -> None:
        """Learn the scale from training cells (n, P), NaN where not measured."""
        self.panel.fit(values)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P) float32 from counts, and (B,) bool, cells that were stained."""
        scaled = self.panel.standardize(values)
        return scaled.nan_to_num(0.0).clamp(-10, 10), scaled.isfinite().any(dim=1)


class Projection(nn.Module):
    """Into the shared space: a linear map, and a perceptron that begins at 0.

    Args:
        width: D of the input.
        shared: d of the space.
        hidden: width of the perceptron; 0 for none.
        dropout: before each linear layer.
    """

    def __init__(self, width: int, shared: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.line = nn.Linear(width, shared)
        self.deep = perceptron([width, hidden, shared], dropout=dropout) if hidden else None
        if self.deep is not None:
            last = self.deep[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @torch.no_grad()
    def begin(self, directions: np.ndarray, center: np.ndarray) -> None:
        """Begin at (x − center) @ directions, (D, k) with k at most d."""
        self.line.weight.zero_()
        self.line.bias.zero_()
        self.line.weight[: directions.shape[1]] = torch.from_numpy(directions.T).to(self.line.weight)
        self.line.bias[: directions.shape[1]] = torch.from_numpy(-center @ directions).to(self.line.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Vectors of length 1, (B, d) float32."""
        found = self.line(self.drop(values))
        if self.deep is not None:
            found = found + self.deep(values)
        return F.normalize(found.float(), dim=1)
