"""Clusters that sharpen themselves: deep embedded clustering from Leiden clusters (DESC, Li et al. 2020)."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.ranges import check_positive
from scfm.head.survey import Survey, build_row_table, lookup_rows
from scfm.metrics.clusters import leiden_clusters
from scfm.metrics.neighbors import find_neighbors
from scfm.types import Backbone, Metrics, Spec

log = logging.getLogger(__name__)

#: Training stops moving anything when fewer cells than this change their cluster in an epoch.
SETTLED = 1e-3


class SelfTraining(StateHead):
    """Assigns cells to clusters by Student's t around centers, and trains toward its own surer assignments.

    q_ij ∝ (1 + ‖z_i − μ_j‖²)⁻¹, p_ij ∝ q_ij² / Σ_i q_ij, L = KL(P ‖ Q), P renewed when an epoch begins. z are principal
    directions of the state (a linear layer that is trained on), μ begin at the means of Leiden clusters of z, scaled so
    that the mean squared distance of a cell to its center is 1. Cells of clusters of fewer than ``min_cluster`` cells
    take no part in P, because self-training makes small clusters vanish; they keep their centers.

    Args:
        spec: vocabulary and width.
        resolution: of the Leiden clusters; more give more.
        label: obs column of known types, to print how well clusters agree with them; nothing is learned from it.
        width: directions z.
        neighbors: of the graph.
        min_cluster: smaller clusters take no part in P.
        gene_components: linear components of the cell's genes beside the embedding; 0 for none.
        variable_components: principal components of 2,000 variable genes beside these, from counts; 0 for none.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        seed: of the Leiden clusters.

    Raises:
        ValueError: a number out of its range, or no such column.
    """

    metric: ClassVar[str] = "loss"
    sizes: Tensor
    settled: Tensor
    targets: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        resolution: float = 1.0,
        label: str | None = None,
        width: int = 32,
        neighbors: int = 15,
        min_cluster: int = 20,
        gene_components: int = 64,
        variable_components: Components = 0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(resolution=resolution, width=width, min_cluster=min_cluster)
        if neighbors < 2:
            raise ValueError(f"head.neighbors={neighbors}; expected 2 or more")
        if label is not None:
            spec.categories("head.label", label)
        self.resolution, self.label, self.neighbors = resolution, label, neighbors
        self.min_cluster, self.seed = min_cluster, seed
        self.labels = () if label is None else (label,)
        self.learned = ()
        self.state = CellState(spec, gene_components, max_tokens, score="log", variable_components=variable_components)
        self.counts = self.state.counts
        self.project = nn.Linear(self.state.width, width)
        self.places = nn.Parameter(torch.zeros(0, width))
        self.register_buffer("sizes", torch.zeros(0))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))
        self.register_buffer("targets", torch.zeros(0, 0), persistent=False)
        self._rows: np.ndarray = np.empty(0, dtype=np.int64)
        self._called: np.ndarray = np.empty(0, dtype=np.int64)
        self._first: np.ndarray = np.empty(0, dtype=np.int64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for the clusters of a checkpoint, whose number is not in the config."""
        stored = state_dict.get(f"{prefix}places")
        if stored is not None and stored.dim() == 2 and stored.shape[1:] == self.places.shape[1:]:
            self.places = nn.Parameter(torch.zeros_like(stored, device=self.places.device))
            self.sizes = torch.zeros(len(stored), device=self.sizes.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def prepare(self, survey: Survey) -> None:
        """Leiden clusters of the training cells, and directions that begin at principal ones.

        Raises:
            ModuleNotFoundError: igraph is not installed.
            ValueError: fewer than three cells, or clusters that are all too small.
        """
        super().prepare(survey)
        states = self.state.from_survey(survey)[survey.train].astype(np.float64)
        if len(states) < 3:
            raise ValueError(f"{len(states)} training cells; expected at least 3 to cluster")
        mean = states.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov((states - mean).T))
        k = min(self.project.out_features, states.shape[1])
        directions = np.zeros((self.project.out_features, states.shape[1]))
        directions[:k] = vectors[:, ::-1][:, :k].T
        z = (states - mean) @ directions.T
        called = leiden_clusters(find_neighbors(z, self.neighbors).connectivities(), self.resolution, self.seed)
        centers = np.stack([z[called == j].mean(axis=0) for j in range(called.max() + 1)])
        scale = np.sqrt(max(((z - centers[called]) ** 2).sum(axis=1).mean(), 1e-12))
        sizes = np.bincount(called)
        if (sizes < self.min_cluster).all():
            raise ValueError(
                f"all {len(sizes)} clusters have fewer than head.min_cluster={self.min_cluster} cells; lower "
                "head.resolution or head.min_cluster"
            )
        device = self.project.weight.device
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(directions / scale))
            self.project.bias.copy_(torch.from_numpy(-directions @ mean / scale))
        self.places = nn.Parameter(torch.from_numpy((centers / scale).astype(np.float32)).to(device))
        self.sizes = torch.from_numpy(sizes.astype(np.float32)).to(device)
        self._rows, self._called, self._first = survey.rows[survey.train], called, called.copy()
        self._renew(self.assign(torch.from_numpy(z / scale).float().to(device)).detach().cpu().numpy())
        small = int((sizes < self.min_cluster).sum())
        log.info("Leiden found %d clusters of %d cells; %d small ones take no part.", len(sizes), len(z), small)

    def assign(self, z: Tensor) -> Tensor:
        """Q (n, K) of places z (n, width)."""
        inverse = 1 / (1 + torch.cdist(z.float(), self.places).square())
        return inverse / inverse.sum(1, keepdim=True)

    def _renew(self, q: np.ndarray) -> None:
        """P of the training cells, in the order of their rows; 0 for cells of small clusters."""
        large = self.sizes.cpu().numpy() >= self.min_cluster
        p = sharpen(q * large)
        p[~large[self._first]] = 0.0
        table = build_row_table(self._rows, p.astype(np.float32), missing=0.0)
        self.targets = torch.from_numpy(table).to(self.places.device)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` = KL(P ‖ Q) over the cells that have a P, and ``n_targets``, their number.

        Cells outside of training are scored against the P of their own q.
        """
        q = self.assign(self.project(self.state(backbone, batch)))
        p = lookup_rows(self.targets, batch.index, missing=0.0)
        if not self.training:
            p = q.detach()
        used = p.sum(1) > 0
        each = (p * (p.clamp(min=1e-12).log() - q.clamp(min=1e-12).log())).sum(1)
        if not self.training:  # how unsure: the entropy of q
            each = -(q * q.clamp(min=1e-12).log()).sum(1)
        n = used.sum()
        loss = (each * used).sum() / n.clamp(min=1)
        return {"loss": loss * (~self.settled), "n_targets": n}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``q`` (B, K), ``state`` (B, D) and ``row`` (B,) of the store or file."""
        state = self.state(backbone, batch)
        return {"q": self.assign(self.project(state)), "state": state, "row": batch.index}

    def update(self, outputs: Arrays, targets: Arrays) -> None:
        """Renew P when an epoch begins; settle where fewer than 0.1 % of the cells changed their cluster."""
        order = np.argsort(outputs["row"], kind="stable")
        rows = outputs["row"][order].astype(np.int64)
        order = order[np.searchsorted(rows, self._rows)]  # once each, where ranks overlap
        q = outputs["q"][order]
        called = q.argmax(axis=1)
        changed = float((called != self._called).mean())
        first, self._called = np.array_equal(self._called, self._first), called
        if not first and changed < SETTLED:
            self.settled.fill_(True)
            log.info("%.2f %% of the cells changed their cluster: the clusters are settled.", 100 * changed)
        self._renew(q)

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``confidence``, mean of max_j q_ij; with ``head.label`` also ``ari`` of clusters and label."""
        from sklearn.metrics import adjusted_rand_score

        found = {"confidence": float(outputs["q"].max(axis=1).mean())}
        if self.label is not None:
            known = targets[self.label] >= 0
            called = outputs["q"].argmax(axis=1)
            found["ari"] = (
                float(adjusted_rand_score(targets[self.label][known], called[known])) if known.any() else np.nan
            )
        return found

    def write(self, outputs: Arrays) -> Written:
        """``scfm_cluster`` (names ``0``, ``1``, ... by size at the start), ``scfm_cluster_confidence`` = max_j q_ij."""
        q = outputs["q"]
        known = np.isfinite(q).all(axis=1)
        called = np.where(known, np.nan_to_num(q).argmax(axis=1), -1)
        names = np.array([*(str(j) for j in range(q.shape[1])), ""], dtype=object)
        uns = {
            "cells_at_the_start": self.sizes.cpu().numpy().astype(np.int64),
            "resolution": self.resolution,
            "note": "self-training sharpens the clusters that it began with; its confidence is not calibrated",
        }
        return Written(obs={"scfm_cluster": names[called], "scfm_cluster_confidence": q.max(axis=1)}, uns=uns)


def sharpen(q: np.ndarray) -> np.ndarray:
    """p_ij ∝ q_ij² / Σ_i q_ij (Xie et al. 2016): surer than q, and large clusters do not swallow small ones.

    Args:
        q: (n, K), rows sum to at most 1; columns of 0 stay 0.

    Returns:
        (n, K) whose rows sum to 1.

    Example:
        >>> sharpen(np.array([[0.8, 0.2], [0.4, 0.6]])).round(3).tolist()
        [[0.914, 0.086], [0.229, 0.771]]
    """
    frequency = q.sum(axis=0)
    p = q**2 / np.where(frequency > 0, frequency, 1.0)
    return p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
