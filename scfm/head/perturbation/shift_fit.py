"""The mean shift of groups, how far it returns to the mean of the controls, and shifts of genes never perturbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Candidates of the ridge penalty, in units of the mean squared length of a code.
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1e6)


@dataclass(frozen=True)
class Means:
    """Mean expression by group.

    Attributes:
        control: (n_groups, G) of control cells; NaN where a group has too few.
        change: (n_groups, P, G) of treated less control; NaN where there are too few cells.
    """

    control: np.ndarray
    change: np.ndarray


def group_means(
    x: np.ndarray, groups: np.ndarray, conditions: np.ndarray, control: int, n_groups: int, n_conditions: int,
    min_cells: int,
) -> Means:  # fmt: skip
    """Mean expression of the control cells of each group, and the change of each condition.

    Args:
        x: (n, G).
        groups: (n,) codes, -1 where missing.
        conditions: (n,) codes, -1 where missing.
        control: code of the control.
        n_groups: number of groups.
        n_conditions: P, the control included (its change is NaN).
        min_cells: of a group in a condition.
    """
    mean = np.full((n_groups, n_conditions, x.shape[1]), np.nan)
    for group in range(n_groups):
        for condition in range(n_conditions):
            own = (groups == group) & (conditions == condition)
            if own.sum() >= min_cells:
                mean[group, condition] = x[own].mean(axis=0)
    controls = mean[:, control].copy()
    change = mean - controls[:, None]
    change[:, control] = np.nan
    return Means(controls, change)


@dataclass(frozen=True)
class ShiftFit:
    """What is kept of the training groups.

    Attributes:
        shift: (P, G) mean change over groups; NaN for conditions that no group has.
        base: (P, G) mean control of the same groups.
        back: λ in [0, 1], how far a group returns to the mean control.
    """

    shift: np.ndarray
    base: np.ndarray
    back: float

    def predict(self, control: np.ndarray) -> np.ndarray:
        """(P, G) change of a new group with this mean control (G,): shift + λ (base − control)."""
        return self.shift + self.back * (self.base - control)


def fit_shift(means: Means) -> ShiftFit:
    """The mean shift over groups and λ, by least squares on groups left out.

    A gene that a group's controls express more than others' falls further (or rises less), as it ends where others
    end: each group is predicted from the other ones by δ_others + λ (μ_others − μ_own), and λ minimizes the squared
    error, between 0 and 1. With a single group λ is 0.

    Args:
        means: of the training groups.

    Raises:
        ValueError: no group has both controls and treated cells.
    """
    known = np.isfinite(means.change).all(axis=2)
    if not known.any():
        raise ValueError("no group has enough control cells and enough treated cells of one condition")
    n_conditions, n_genes = means.change.shape[1:]
    shift, base = np.full((n_conditions, n_genes), np.nan), np.full((n_conditions, n_genes), np.nan)
    top = bottom = 0.0
    for condition in range(n_conditions):
        rows = np.flatnonzero(known[:, condition])
        if not len(rows):
            continue
        change, control = means.change[rows, condition], means.control[rows]
        shift[condition], base[condition] = change.mean(axis=0), control.mean(axis=0)
        for i in range(len(rows)) if len(rows) > 1 else ():
            others = np.arange(len(rows)) != i
            away = control[others].mean(axis=0) - control[i]
            top += float(away @ (change[i] - change[others].mean(axis=0)))
            bottom += float(away @ away)
    back = float(np.clip(top / bottom, 0, 1)) if bottom > 1e-12 else 0.0
    return ShiftFit(shift, base, back)


def unseen_shift(codes: np.ndarray, shifts: np.ndarray, code: np.ndarray) -> np.ndarray:
    """The shift of a gene that was never perturbed: the mean over perturbations, and what a ridge of their codes adds.

    The penalty is chosen by leaving out perturbations; the largest candidate leaves the mean alone.

    Args:
        codes: (P, k) of perturbed genes.
        shifts: (P, G).
        code: (k,) of the new gene.
    """
    mean, middle = shifts.mean(axis=0), codes.mean(axis=0)
    if len(codes) < 3:
        return mean
    a, b = codes - middle, shifts - mean
    scale = max(float((a**2).sum(axis=1).mean()), 1e-12)
    errors = []
    for penalty in PENALTIES:
        hat = a @ np.linalg.solve(a.T @ a + penalty * scale * np.eye(a.shape[1]), a.T) + 1 / len(a)
        left_out = (b - hat @ b) / (1 - np.diag(hat))[:, None]
        errors.append(float((left_out**2).sum()))
    best = PENALTIES[int(np.argmin(errors))] * scale
    return mean + (code - middle) @ np.linalg.solve(a.T @ a + best * np.eye(a.shape[1]), a.T @ b)
