"""Bags: the cells of each sample, and what of them cannot be learned from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: With fewer donors of a class, no share of them can be told from chance.
MIN_DONORS = 5


@dataclass(frozen=True)
class Samples:
    """Samples that can be learned from.

    Attributes:
        codes: (S,) sample code, ascending.
        truth: (S, ...) label of each: a class code, a number, or (time, event).
        donors: (S,) donor of each.
        cells: (n,) place of each cell's sample in ``codes``, -1 for cells that take no part.
    """

    codes: np.ndarray
    truth: np.ndarray
    donors: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)


def find_samples(
    samples: np.ndarray,
    truth: np.ndarray,
    donors: np.ndarray | None = None,
    *,
    min_cells: int = 10,
    names: Sequence[str] | None = None,
) -> Samples:
    """The samples whose label is known and that have enough cells.

    Args:
        samples: (n,) sample code of each cell, -1 where missing.
        truth: (n,) or (n, 2) label of each cell; below 0 (whole numbers) or NaN where missing.
        donors: (n,) donor of each cell; None: samples are donors.
        min_cells: samples of fewer cells are left out.
        names: of the samples, for messages.

    Raises:
        ValueError: a label or a donor that is not constant in a sample, or bags of one cell.
    """
    owner = samples if donors is None else donors
    first = truth if truth.ndim == 1 else truth[:, 0]
    known = (samples >= 0) & (owner >= 0) & np.isfinite(first) & ((truth.dtype.kind == "f") | (first >= 0))
    codes, place, sizes = np.unique(samples[known], return_inverse=True, return_counts=True)
    rows = np.flatnonzero(known)
    starts = rows[np.unique(place, return_index=True)[1]]
    _require_constant(truth[rows], truth[starts][place], place, codes, names, "label")
    _require_constant(owner[rows], owner[starts][place], place, codes, names, "donor")
    if len(sizes) and np.median(sizes) < 2:
        raise ValueError(
            f"{int((sizes < 2).sum())} of {len(sizes)} samples have one cell: a bag of one cell is no sample; name "
            "the obs column of the donors, not of the cells"
        )
    enough = sizes >= min_cells
    if not enough.all():
        log.warning(
            "%d of %d samples have fewer than %d cells and are left out.", (~enough).sum(), len(codes), min_cells
        )
    cells = np.full(len(samples), -1)
    order = np.where(enough, np.cumsum(enough) - 1, -1)
    cells[rows] = order[place]
    return Samples(codes[enough], truth[starts][enough], owner[starts][enough], cells)


def _require_constant(
    values: np.ndarray, first: np.ndarray, place: np.ndarray, codes: np.ndarray, names: Sequence[str] | None, what: str
) -> None:
    differ = values != first
    differ = differ if differ.ndim == 1 else differ.any(axis=1)
    if not differ.any():
        return
    bad = np.unique(place[differ])
    shown = ", ".join(str(codes[i] if names is None else names[codes[i]]) for i in bad[:3])
    advice = "name a sample column with one condition each (donor and time), and the donors apart"
    raise ValueError(
        f"the {what} is not constant in {len(bad)} sample(s) ({shown}): expected one {what} a sample; {advice}"
    )


def require_donors(samples: Samples, classes: Sequence[str]) -> None:
    """Refuse classes of fewer than five donors.

    Args:
        samples: with class codes as their truth.
        classes: names by code.

    Raises:
        ValueError: naming the classes.
    """
    have = {name: len(np.unique(samples.donors[samples.truth == code])) for code, name in enumerate(classes)}
    few = {name: n for name, n in have.items() if n < MIN_DONORS}
    if few:
        listed = ", ".join(f"{name!r} has {n}" for name, n in few.items())
        raise ValueError(
            f"{listed} donor(s) with enough cells; expected at least {MIN_DONORS} donors of each class, because the "
            "donor is the unit: more cells of the same donors do not help"
        )


def require_no_batch(samples: Samples, batches: np.ndarray, column: str) -> float:
    """Refuse a label that follows the batch; warn where it depends on it.

    Args:
        samples: with class codes as their truth.
        batches: (n,) batch of each cell, -1 where missing.
        column: its name.

    Returns:
        p of a χ² test of label and batch over samples (nan with one batch or one class).

    Raises:
        ValueError: every batch has one label, and there are fewer batches than samples.
    """
    from scipy.stats import chi2_contingency

    counts = np.zeros((len(samples), int(batches.max(initial=0)) + 1))
    inside = (samples.cells >= 0) & (batches >= 0)
    np.add.at(counts, (samples.cells[inside], batches[inside]), 1)
    of_sample = counts.argmax(axis=1)
    _, batch = np.unique(of_sample, return_inverse=True)
    _, label = np.unique(samples.truth, return_inverse=True)
    table = np.zeros((batch.max() + 1, label.max() + 1))
    np.add.at(table, (batch, label), 1)
    if min(table.shape) < 2:
        return float("nan")
    p = float(chi2_contingency(table, correction=False).pvalue)
    if len(table) < len(samples) and ((table > 0).sum(axis=1) == 1).all() and table.sum(axis=1).max() > 1:
        raise ValueError(
            f"the label follows {column!r}: each of its {len(table)} batches has one label, so that an effect of the "
            "batch cannot be told from one of the phenotype; use samples of both labels in each batch, or leave the "
            "batch column out if you accept this"
        )
    if p < 0.05:
        log.warning(
            "The label depends on %s (χ² over samples, p = %.3g): part of what is learned may be the batch.", column, p
        )
    return p


@dataclass(frozen=True)
class Bags:
    """Cells of samples, padded.

    Attributes:
        values: (S, n, D) float32.
        mask: (S, n) bool, cells that are there.
    """

    values: Tensor
    mask: Tensor

    def pooled(self) -> Bags:
        """The mean of each sample's cells as its only cell."""
        weight = self.mask.to(self.values.dtype)
        total = torch.einsum("sn,snd->sd", weight, self.values) / weight.sum(1, keepdim=True).clamp(min=1)
        return Bags(total.unsqueeze(1), self.mask.any(1, keepdim=True))

    def draw(self, cells: int, generator: torch.Generator) -> Bags:
        """At most so many cells of each sample, drawn at random."""
        if self.mask.shape[1] <= cells:
            return self
        key = torch.rand(self.mask.shape, generator=generator).masked_fill(~self.mask, 2.0)
        chosen = key.argsort(1)[:, :cells]
        values = self.values.gather(1, chosen[..., None].expand(-1, -1, self.values.shape[2]))
        return Bags(values, self.mask.gather(1, chosen))


def make_bags(values: Tensor, place: Tensor, n_samples: int) -> Bags:
    """Bags of cells, in the order of the cells.

    Args:
        values: (n, D).
        place: (n,) int64 sample of each cell, -1 for cells that take no part.
        n_samples: S.
    """
    rows = (place >= 0).nonzero().squeeze(1)
    owner = place[rows]
    order = torch.argsort(owner, stable=True)
    rows, owner = rows[order], owner[order]
    sizes = torch.bincount(owner, minlength=n_samples)
    within = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[owner]
    longest = max(int(sizes.max()) if len(rows) else 0, 1)
    padded = values.new_zeros(n_samples, longest, values.shape[1])
    mask = torch.zeros(n_samples, longest, dtype=torch.bool, device=values.device)
    padded[owner, within] = values[rows]
    mask[owner, within] = True
    return Bags(padded, mask)
