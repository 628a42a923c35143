"""A map whose coordinates are a function of the cell, so that new cells can be added to an old map."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Head, Outputs, Written
from scfm.head.cell_state import MIN_TOKENS, shorten
from scfm.head.gene_components import GeneComponents
from scfm.head.survey import Survey, build_row_table, lookup_rows
from scfm.head.views import batch_generator
from scfm.head.visualization.edges import Edges
from scfm.head.visualization.umap_layout import net_umap
from scfm.metrics.neighbors import find_neighbors
from scfm.metrics.umap import curve
from scfm.model.pooling import embed
from scfm.types import Backbone, Metrics, Spec

#: The obsm entry of the map.
KEY = "X_scfm_umap"

#: The network's steps before training: cells of one, learning rate of the first.
WARM_UP_CELLS, WARM_UP_RATE = 256, 2e-3


class ParametricUMAP(Head):
    """A network 100-75-50-25 from the gene components of a cell (or, where there are none, its embedding) to the plane.

    ``form=regression`` (Cumulus, Li et al. 2020; pegasus): before training, a UMAP of the training cells, or of a
    density-weighted sample of them that is then extended and polished; L = mean squared error of its coordinates +
    ``decay`` · Σ w²/2n. ``form=cross_entropy`` (Sainburg et al. 2021): L = −Σ w_ij ln q_ij − Σ_neg ln(1 − q_ij),
    q = 1/(1 + a‖u−v‖^{2b}), with neighbors drawn by w and ``negatives`` random cells for each.
    Inputs are divided by their largest standard deviation, and coordinates are scaled to a standard deviation of 15 for
    the fit. The backbone is not trained and the inputs of the network do not change, so that most of the fit is done in
    ``warm_up`` steps before training.

    Args:
        spec: vocabulary, classes and widths of the run.
        form: ``regression`` or ``cross_entropy``.
        gene_components: components of the cell's ranked genes, see :mod:`~scfm.head.gene_components`; 0 for the
            embedding instead.
        neighbors: neighbors of each cell in UMAP's graph.
        min_dist: UMAP's ``min_dist``.
        sample: cells that UMAP lays out; all training cells where there are fewer.
        polish: epochs of UMAP over all training cells, from the extended sample.
        negatives: random cells for each cell in the cross-entropy.
        decay: weight of the L2 penalty of the regression.
        warm_up: steps by which the network is trained before fine-tuning.
        seed: seed of sample, UMAP and warm-up.

    Raises:
        ValueError: a number out of its range; in training, too few cells.
    """

    metric: ClassVar[str] = "trustworthiness"
    labels: tuple[str, ...] = ()
    center: Tensor
    scale: Tensor
    middle: Tensor
    spread: Tensor
    curve: Tensor
    layout: Tensor
    table: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        form: Literal["regression", "cross_entropy"] = "regression",
        gene_components: int = 50,
        neighbors: int = 15,
        min_dist: float = 0.5,
        sample: int = 10_000,
        polish: int = 30,
        negatives: int = 5,
        decay: float = 0.1,
        warm_up: int = 3000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if form not in ("regression", "cross_entropy"):
            raise ValueError(f"head.form={form!r}; expected regression or cross_entropy")
        if neighbors < 2 or negatives < 1 or min(polish, min_dist, decay, warm_up, gene_components) < 0:
            raise ValueError(
                f"head.neighbors={neighbors}, negatives={negatives}, polish={polish}, min_dist={min_dist}, "
                f"decay={decay}, warm_up={warm_up}, gene_components={gene_components}; expected at least 2, at least "
                "1, and numbers of 0 or more"
            )
        if sample < 5 * neighbors:
            raise ValueError(f"head.sample={sample}; expected at least 5 times head.neighbors={neighbors} cells")
        self.form, self.neighbors, self.min_dist, self.sample = form, neighbors, min_dist, sample
        self.polish, self.negatives, self.decay, self.seed = polish, negatives, decay, seed
        self.vocab, self.warm_up = spec.vocab, warm_up
        self.components = GeneComponents(spec.vocab, gene_components)
        width = gene_components or spec.width
        sizes = [width, 100, 75, 50, 25, 2]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        for name, value in (("center", torch.zeros(width)), ("scale", torch.ones(()))):
            self.register_buffer(name, value)
        for name, value in (("middle", torch.zeros(2)), ("spread", torch.ones(())), ("curve", torch.ones(2))):
            self.register_buffer(name, value)
        self.register_buffer("layout", torch.zeros((0, 2)), persistent=False)
        self.register_buffer("table", torch.zeros((0, width)), persistent=False)
        self.graph: Edges | None = None

    def prepare(self, survey: Survey) -> None:
        """Lay out the training cells, or build their graph.

        Raises:
            ValueError: too few cells.
            ImportError: umap-learn is not installed.
        """
        self.components.prepare(survey)
        rows, train = survey.rows[survey.train], np.flatnonzero(survey.train)
        assert self.components.width == 0 or survey.tokens is not None, "the components are fitted"
        space = (
            self.components.transform(survey.tokens(train))
            if survey.tokens and self.components.width
            else survey.embedding[train]
        )
        self.center.copy_(torch.from_numpy(space.mean(axis=0)))
        self.scale.fill_(max(float(space.std(axis=0).max()), 1e-6))
        self.table = self.features(torch.from_numpy(space))
        features = self.table.numpy()
        self.curve.copy_(torch.tensor(curve(self.min_dist)))
        if self.form == "regression":
            layout = net_umap(
                features,
                sample=self.sample,
                neighbors=self.neighbors,
                min_dist=self.min_dist,
                polish=self.polish,
                seed=self.seed,
            )
            self.middle.copy_(torch.from_numpy(layout.mean(axis=0)))
            self.spread.fill_(float(layout.std(axis=0).max()) / 15.0)
            self.layout = torch.from_numpy(build_row_table(rows, layout, missing=np.nan))
        else:
            self.graph = Edges(find_neighbors(features, self.neighbors).connectivities(), rows)
        self._train_alone(torch.from_numpy(rows))

    def _train_alone(self, rows: Tensor) -> None:
        """Train the network on the features of the training cells, before fine-tuning."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=WARM_UP_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=max(self.warm_up, 1))
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.warm_up):
            chosen = torch.randint(len(rows), (WARM_UP_CELLS,), generator=generator)
            optimizer.zero_grad()
            self._loss(self.network(self.table[chosen]), rows[chosen], generator)["loss"].backward()
            optimizer.step()
            schedule.step()

    def view(self, batch: Batch) -> Batch:
        """What the backbone reads of a batch: the fewest tokens, where the map is made from gene components."""
        return shorten(batch, MIN_TOKENS, self.vocab) if self.components.width else batch

    def space(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The inputs of the map, (B, D) float32: the gene components, or the embedding."""
        return self.components(batch) if self.components.width else embed(backbone, batch, self.vocab).float()

    def features(self, space: Tensor) -> Tensor:
        """Inputs (B, D), centered and scaled."""
        return (space - self.center) / self.scale

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` and ``n_targets``, the cells that have coordinates or neighbors in the map."""
        with torch.no_grad():
            features = self.features(self.space(backbone, batch))
        generator = torch.Generator().manual_seed(batch_generator(batch).initial_seed())
        return self._loss(self.network(features), batch.index, generator)

    def _loss(self, coordinates: Tensor, index: Tensor, generator: torch.Generator) -> Metrics:
        """Metrics of coordinates (B, 2) of cells with store rows (B,)."""
        if self.form == "regression":
            return self._regress(coordinates, index)
        return self._attract(coordinates, index, generator)

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``map`` (B, 2) of each cell, and ``state`` (B, D), its inputs; neither depends on other cells."""
        space = self.space(backbone, batch)
        return {"map": self.network(self.features(space)) * self.spread + self.middle, "state": space}

    def write(self, outputs: Arrays) -> Written:
        """The map."""
        uns = {"projection": "genes alone: new cells pass the network and are added to the old map"}
        return Written(obsm={KEY: outputs["map"]}, uns=uns)

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``trustworthiness`` (Venna & Kaski 2001) of the cells' map, on at most 3000; nan for fewer than three."""
        from sklearn.manifold import trustworthiness

        known = np.flatnonzero(np.isfinite(outputs["map"]).all(axis=1))
        if len(known) > 3000:
            known = np.random.default_rng(self.seed).choice(known, 3000, replace=False)
        k = min(self.neighbors, (len(known) - 1) // 2)
        if k < 1:
            return {"trustworthiness": float("nan")}
        return {
            "trustworthiness": float(trustworthiness(outputs["state"][known], outputs["map"][known], n_neighbors=k))
        }

    def _regress(self, coordinates: Tensor, index: Tensor) -> Metrics:
        assert len(self.layout), "prepare(survey) makes the layout before the first step"
        truth = (lookup_rows(self.layout, index, missing=np.nan) - self.middle) / self.spread
        known = truth.isfinite().all(1)
        n = known.sum()
        error = (coordinates[known] - truth[known]).square().sum() / (2 * n.clamp(min=1))
        weights = sum(w.square().sum() for name, w in self.network.named_parameters() if name.endswith("weight"))
        loss = error + self.decay * weights / (2 * len(self.table))
        return {"loss": loss, "error": error, "n_targets": n}

    def _attract(self, coordinates: Tensor, index: Tensor, generator: torch.Generator) -> Metrics:
        assert self.graph is not None, "prepare(survey) builds the graph before the first step"
        cells, others, weight = self.graph.draw(index.cpu(), generator)
        if len(cells) == 0:
            return {"loss": coordinates.sum() * 0.0, "n_targets": coordinates.new_zeros(())}
        strangers = torch.randint(len(self.table), (len(cells), self.negatives), generator=generator)
        device = coordinates.device
        here = coordinates[cells.to(device)]
        near = self.network(self.table[others.to(device)])
        far = self.network(self.table[strangers.to(device)])
        loss = cross_entropy(here, near, far, weight.to(device), self.curve)
        return {"loss": loss, "n_targets": loss.new_tensor(len(cells))}


def cross_entropy(here: Tensor, near: Tensor, far: Tensor, weight: Tensor, curve: Tensor) -> Tensor:
    """Mean over cells of −w [ln q(u, near) + Σ_neg ln(1 − q(u, far))], q = 1/(1 + a‖u−v‖^{2b}).

    Args:
        here: (N, 2) cells u.
        near: (N, 2) a neighbor of each, drawn with p ∝ w_ij.
        far: (N, m, 2) random cells.
        weight: (N,) Σ_j w_ij, which makes the estimate unbiased.
        curve: (2,) a and b.
    """
    a, b = curve[0], curve[1]
    scaled = a * ((here - near).square().sum(1) + 1e-6) ** b
    apart = a * ((here[:, None] - far).square().sum(2) + 1e-6) ** b
    attraction = torch.log1p(scaled)
    repulsion = (torch.log1p(apart) - torch.log(apart + 1e-4)).sum(1)
    return (weight * (attraction + repulsion)).mean()
