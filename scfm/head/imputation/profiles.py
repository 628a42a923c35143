"""Expression profiles of cells as a log-linear function of their state, its strength chosen by held-out molecules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.head.blocks import make_folds
from scfm.metrics.denoising import poisson_deviance

log = logging.getLogger(__name__)

#: Penalties that are tried, for each time that a cell is thinned.
PENALTIES = (500.0, 150.0, 50.0)
#: Landmarks, at most, and the training cells that each needs.
LANDMARKS, CELLS_EACH = 32, 15
#: How fast the weight of a landmark falls: exp(−3 d²), d² in units of the mean square distance to the nearest.
FALL = 3.0
#: Molecules of the mean profile that a landmark's own profile begins with.
PRIOR = 20.0
#: Steps of L-BFGS for a penalty; each begins where the stronger one before it ended.
STEPS = 20
#: The least share of a gene, so that its logarithm is finite.
LEAST = 1e-9


@dataclass(frozen=True)
class Thinned:
    """Cells of which some molecules were hidden.

    Attributes:
        state: (n, k) of what was left.
        hidden: (n, G) float32 counts of the molecules that were hidden.
    """

    state: np.ndarray
    hidden: np.ndarray

    def select(self, cells: np.ndarray) -> Thinned:
        """Some of the cells."""
        return Thinned(self.state[cells], self.hidden[cells])


@dataclass(frozen=True)
class Landmarks:
    """Profiles of groups of similar cells, mixed by a cell's distance to them.

    Attributes:
        centers: (K, k) means of the groups' states.
        profiles: (K, G) shares of the genes in their hidden molecules.
        sharpness: of the mixture.
    """

    centers: Tensor
    profiles: Tensor
    sharpness: Tensor

    def scores(self, state: Tensor) -> Tensor:
        """Ln Σ_k w_k profile_k, (B, G) float32, w = softmax(−sharpness ‖z − center_k‖²), from states (B, k)."""
        distance = (state.float()[:, None] - self.centers[None]).square().sum(2)
        return ((-self.sharpness * distance).softmax(1) @ self.profiles + LEAST).log()


@dataclass(frozen=True)
class ProfileFit:
    """How the shares of genes follow from states.

    Attributes:
        landmarks: their scores are what ``weight`` adds to.
        weight: (k, G); 0 for genes that are not told.
        told: (G,) bool, genes that are predicted better than by their mean.
        penalty: λ.
        d2: share of the Poisson deviance from gene means that is explained, in cells that were not fitted on.
    """

    landmarks: Landmarks
    weight: np.ndarray
    told: np.ndarray
    penalty: float
    d2: float


def gene_shares(scores: Tensor, means: Tensor, told: Tensor) -> Tensor:
    """Shares of genes (B, G): softmax of the scores over the genes that are told, the means for the others.

    A gene that is not told has the same share in every cell, and takes no part in the softmax, so that it cannot
    follow the others either.

    Args:
        scores: (B, G).
        means: (G,) of sum 1.
        told: (G,) bool.
    """
    rest = (means * ~told).sum()
    open_scores = scores.masked_fill(~told, -torch.inf)
    soft = open_scores.softmax(1) if bool(told.any()) else torch.zeros_like(scores)
    return torch.where(told, soft * (1 - rest), means)


def find_centers(copies: Sequence[Thinned], seed: int) -> tuple[np.ndarray, float]:
    """Means (K, k) of groups of similar cells, by k-means, and the sharpness of their mixture."""
    from sklearn.cluster import KMeans

    state = copies[0].state
    n = int(np.clip(len(state) // CELLS_EACH, 1, LANDMARKS))
    found = KMeans(n, n_init=2, random_state=seed).fit(state)
    return found.cluster_centers_, FALL / max(float(found.inertia_) / len(state), 1e-12)


def make_landmarks(copies: Sequence[Thinned], means: np.ndarray, centers: np.ndarray, sharpness: float) -> Landmarks:
    """Landmarks whose profiles are those of the cells, each cell shared out among them as it will be read."""
    bare = Landmarks(torch.from_numpy(centers).float(), torch.eye(len(centers)), torch.tensor(sharpness))
    sums = PRIOR * torch.from_numpy(means).float().expand(len(centers), -1).clone()
    for copy in copies:
        sums += bare.scores(torch.from_numpy(copy.state)).exp().T @ torch.from_numpy(copy.hidden).float()
    return Landmarks(bare.centers, sums / sums.sum(1, keepdim=True), bare.sharpness)


def fit_weight(
    copies: Sequence[Thinned], landmarks: Landmarks, penalty: float, start: np.ndarray | None = None,
    told: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """W (k, G) that minimizes −Σ x ln softmax(s(z) + z W) + ½ λ c ‖W‖² over c thinned copies of the cells, by L-BFGS.

    Args:
        copies: of the same cells.
        landmarks: whose scores are s.
        penalty: λ.
        start: W to begin at; None for 0.
        told: (G,) bool, genes whose weight is not held at 0; None for all.
    """
    state = torch.from_numpy(np.concatenate([copy.state for copy in copies])).float()
    hidden = torch.from_numpy(np.concatenate([copy.hidden for copy in copies])).float()
    offset = landmarks.scores(state)
    first = np.zeros((state.shape[1], hidden.shape[1])) if start is None else start
    free = torch.ones(hidden.shape[1]) if told is None else torch.from_numpy(told).float()
    weight = torch.from_numpy(first).float().requires_grad_()
    total, strength = hidden.sum().clamp(min=1), penalty * len(copies)
    optimizer = torch.optim.LBFGS([weight], max_iter=STEPS, history_size=8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        used = weight * free
        found = -(hidden * F.log_softmax(offset + state @ used, 1)).sum() + 0.5 * strength * used.square().sum()
        found = found / total
        found.backward()
        return found

    with torch.enable_grad():
        optimizer.step(loss)
    return (weight * free).detach().numpy().astype(np.float64)


def fit_profiles(
    copies: Sequence[Thinned], means: np.ndarray, errors: float, groups: np.ndarray | None, seed: int = 0
) -> ProfileFit:
    """Landmarks, weight, its penalty, and which genes are told, by molecular cross-validation (Batson et al. 2019).

    Folds of cells are left out in turn, whole groups where there are enough of them; their hidden molecules judge the
    profiles that follow from the molecules that were left. The penalty is that of the largest Poisson likelihood. A
    gene is told if its own likelihood is above that of its mean by more than ``errors`` standard errors over cells.

    Args:
        copies: thinned copies of the same cells.
        means: (G,) shares of the genes.
        errors: see above.
        groups: (n,) donors or the like.
        seed: of the k-means.
    """
    folds = make_folds(len(copies[0].state), groups)
    centers, sharpness = find_centers(copies, seed)
    landmarks = make_landmarks(copies, means, centers, sharpness)
    if not folds:
        log.warning("%d training cells are too few to choose by: every gene gets its mean.", len(copies[0].state))
        zero = np.zeros((copies[0].state.shape[1], len(means)))
        return ProfileFit(landmarks, zero, np.zeros(len(means), bool), PENALTIES[0], 0.0)
    gains: list[list[np.ndarray]] = [[] for _ in PENALTIES]
    noise = 0.0
    for kept, held in folds:
        fitted, judged = [copy.select(kept) for copy in copies], [copy.select(held) for copy in copies]
        own, weight = make_landmarks(fitted, means, centers, sharpness), None
        for i, penalty in enumerate(PENALTIES):
            weight = fit_weight(fitted, own, penalty, weight)
            gains[i].append(np.mean([_gain(copy, own, weight, means) for copy in judged], axis=0))
        noise += float(np.mean([poisson_deviance(c.hidden, c.hidden.sum(1, keepdims=True) * means) for c in judged]))
    best = int(np.argmax([sum(float(gain.sum()) for gain in each) for each in gains]))
    gain = np.concatenate(gains[best])
    error = gain.std(axis=0, ddof=1) / len(gain) ** 0.5
    told = gain.mean(axis=0) > errors * np.maximum(error, 1e-12)
    weight = fit_weight(copies, landmarks, PENALTIES[best], None, told)
    return ProfileFit(landmarks, weight, told, PENALTIES[best], 2 * float(gain[:, told].sum()) / max(noise, 1e-12))


def _gain(copy: Thinned, landmarks: Landmarks, weight: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(n, G) Poisson log-likelihood of hidden molecules less that of the means."""
    state = torch.from_numpy(copy.state).float()
    log_shares = F.log_softmax(landmarks.scores(state) + state @ torch.from_numpy(weight).float(), 1).numpy()
    total = copy.hidden.sum(axis=1, keepdims=True)
    return np.asarray(copy.hidden * (log_shares - np.log(means + LEAST)) - total * (np.exp(log_shares) - means))
