"""A map whose coordinates are a function of the cell, so that new cells land in an old map."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Head, Outputs, Written
from scfm.head.cell_state import shortened
from scfm.head.gene_components import GeneBag
from scfm.head.survey import Survey, looked_up, scattered
from scfm.head.views import generator_of
from scfm.head.visualization.edges import Edges
from scfm.head.visualization.layout import net_umap
from scfm.metrics.neighbors import find_neighbors
from scfm.metrics.umap import curve
from scfm.model.pooling import embed
from scfm.types import Backbone, Metrics, Spec

#: The obsm entry of the map.
KEY = "X_scfm_umap"

#: The network's steps before training: cells of one, learning rate of the first.
WARM_UP_CELLS, WARM_UP_RATE = 256, 2e-3

#: Tokens of a cell that nobody asks the backbone about.
SHORTEST = 3


class ParametricUMAP(Head):
    """A network 100-75-50-25 from a cell's gene components to the plane (from its embedding where ``genes`` is 0).

    ``form=regression`` (Cumulus, Li et al. 2020; pegasus): before training, a UMAP of the training cells, or of a
    density-weighted sample of them that is then extended and polished; L = mean squared error of its coordinates +
    ``decay`` · Σ w²/2n. ``form=cross_entropy`` (Sainburg et al. 2021): L = −Σ w_ij ln q_ij − Σ_neg ln(1 − q_ij),
    q = 1/(1 + a‖u−v‖^{2b}), with neighbours drawn by w and ``negatives`` random cells for each.
    Inputs are divided by their largest standard deviation, coordinates scaled to one of 15 while fitting. What the
    network reads never changes, the backbone is never trained: so most of the fit is ``warm_up`` steps before training.

    Args:
        spec: what only the run knows.
        form: ``regression`` or ``cross_entropy``.
        genes: components of the cell's ranked genes, see :mod:`~scfm.head.gene_components`; 0 takes the embedding.
        neighbours: of UMAP's graph.
        min_dist: of UMAP.
        sample: cells that UMAP lays out; all training cells where there are fewer.
        polish: epochs of UMAP over all training cells, from the extended sample.
        negatives: of the cross-entropy, for each cell.
        decay: L2 penalty of the regression.
        warm_up: steps that the network takes before training.
        seed: of sample, UMAP and warm-up.

    Raises:
        ValueError: a number out of its range; in training, too few cells.
    """

    metric: ClassVar[str] = "trustworthiness"
    labels: tuple[str, ...] = ()
    centre: Tensor
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
        genes: int = 50,
        neighbours: int = 15,
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
        if neighbours < 2 or negatives < 1 or min(polish, min_dist, decay, warm_up, genes) < 0:
            raise ValueError(
                f"head.neighbours={neighbours}, negatives={negatives}, polish={polish}, min_dist={min_dist}, "
                f"decay={decay}, warm_up={warm_up}, genes={genes}; expected at least 2, at least 1, and numbers of 0 "
                "or more"
            )
        if sample < 5 * neighbours:
            raise ValueError(f"head.sample={sample}; expected at least 5 times head.neighbours={neighbours} cells")
        self.form, self.neighbours, self.min_dist, self.sample = form, neighbours, min_dist, sample
        self.polish, self.negatives, self.decay, self.seed = polish, negatives, decay, seed
        self.vocab, self.warm_up, self.bag = spec.vocab, warm_up, GeneBag(spec.vocab, genes)
        width = genes or spec.width
        sizes = [width, 100, 75, 50, 25, 2]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        for name, value in (("centre", torch.zeros(width)), ("scale", torch.ones(()))):
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
        self.bag.prepare(survey)
        rows, train = survey.rows[survey.train], np.flatnonzero(survey.train)
        assert self.bag.size == 0 or survey.tokens is not None, "the components are fitted"
        space = self.bag.of(survey.tokens(train)) if survey.tokens and self.bag.size else survey.embedding[train]
        self.centre.copy_(torch.from_numpy(space.mean(axis=0)))
        self.scale.fill_(max(float(space.std(axis=0).max()), 1e-6))
        self.table = self.features(torch.from_numpy(space))
        features = self.table.numpy()
        self.curve.copy_(torch.tensor(curve(self.min_dist)))
        if self.form == "regression":
            layout = net_umap(
                features,
                sample=self.sample,
                neighbours=self.neighbours,
                min_dist=self.min_dist,
                polish=self.polish,
                seed=self.seed,
            )
            self.middle.copy_(torch.from_numpy(layout.mean(axis=0)))
            self.spread.fill_(float(layout.std(axis=0).max()) / 15.0)
            self.layout = torch.from_numpy(scattered(rows, layout, missing=np.nan))
        else:
            self.graph = Edges(find_neighbors(features, self.neighbours).connectivities(), rows)
        self._begin(torch.from_numpy(rows))

    def _begin(self, rows: Tensor) -> None:
        """Fit the network to the training cells, of which nothing but ``table`` has to be read."""
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
        """What the backbone reads of a batch: next to nothing, where the map is made of gene components."""
        return shortened(batch, SHORTEST, self.vocab) if self.bag.size else batch

    def space(self, backbone: Backbone, batch: Batch) -> Tensor:
        """What the map is made of, (B, D) float32: the gene components, or the embedding."""
        return self.bag(batch) if self.bag.size else embed(backbone, batch, self.vocab).float()

    def features(self, space: Tensor) -> Tensor:
        """The same at the network's scale, (B, D)."""
        return (space - self.centre) / self.scale

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` and ``n_targets``, the cells that have a place or neighbours in the map."""
        with torch.no_grad():
            features = self.features(self.space(backbone, batch))
        generator = torch.Generator().manual_seed(generator_of(batch).initial_seed())
        return self._loss(self.network(features), batch.index, generator)

    def _loss(self, found: Tensor, index: Tensor, generator: torch.Generator) -> Metrics:
        """Of the coordinates (B, 2) of the cells of some store rows (B,)."""
        return self._regress(found, index) if self.form == "regression" else self._attract(found, index, generator)

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``map`` (B, 2) of each cell, and the ``state`` (B, D) it was made of; neither depends on other cells."""
        space = self.space(backbone, batch)
        return {"map": self.network(self.features(space)) * self.spread + self.middle, "state": space}

    def write(self, outputs: Arrays) -> Written:
        """The map."""
        uns = {"projection": "genes alone: new cells pass the network, and land in the old map"}
        return Written(obsm={KEY: outputs["map"]}, uns=uns)

    def summarise(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """``trustworthiness`` (Venna & Kaski 2001) of the cells' map, on at most 3000 of them; nan for a handful."""
        from sklearn.manifold import trustworthiness

        known = np.flatnonzero(np.isfinite(outputs["map"]).all(axis=1))
        if len(known) > 3000:
            known = np.random.default_rng(self.seed).choice(known, 3000, replace=False)
        k = min(self.neighbours, (len(known) - 1) // 2)
        if k < 1:
            return {"trustworthiness": float("nan")}
        return {
            "trustworthiness": float(trustworthiness(outputs["state"][known], outputs["map"][known], n_neighbors=k))
        }

    def _regress(self, found: Tensor, index: Tensor) -> Metrics:
        assert len(self.layout), "prepare(survey) makes the layout before the first step"
        truth = (looked_up(self.layout, index, missing=np.nan) - self.middle) / self.spread
        known = truth.isfinite().all(1)
        n = known.sum()
        error = (found[known] - truth[known]).square().sum() / (2 * n.clamp(min=1))
        weights = sum(w.square().sum() for name, w in self.network.named_parameters() if name.endswith("weight"))
        loss = error + self.decay * weights / (2 * len(self.table))
        return {"loss": loss, "error": error, "n_targets": n}

    def _attract(self, found: Tensor, index: Tensor, generator: torch.Generator) -> Metrics:
        assert self.graph is not None, "prepare(survey) builds the graph before the first step"
        cells, others, weight = self.graph.draw(index.cpu(), generator)
        if len(cells) == 0:
            return {"loss": found.sum() * 0.0, "n_targets": found.new_zeros(())}
        strangers = torch.randint(len(self.table), (len(cells), self.negatives), generator=generator)
        device = found.device
        here = found[cells.to(device)]
        near = self.network(self.table[others.to(device)])
        far = self.network(self.table[strangers.to(device)])
        loss = cross_entropy(here, near, far, weight.to(device), self.curve)
        return {"loss": loss, "n_targets": loss.new_tensor(len(cells))}


def cross_entropy(here: Tensor, near: Tensor, far: Tensor, weight: Tensor, curve: Tensor) -> Tensor:
    """Mean over cells of −w [ln q(u, near) + Σ_neg ln(1 − q(u, far))], q = 1/(1 + a‖u−v‖^{2b}).

    Args:
        here: (N, 2) cells u.
        near: (N, 2) a neighbour of each, drawn with p ∝ w_ij.
        far: (N, m, 2) random cells.
        weight: (N,) Σ_j w_ij, which makes the draw unbiased.
        curve: (2,) a and b.
    """
    a, b = curve[0], curve[1]
    scaled = a * ((here - near).square().sum(1) + 1e-6) ** b
    apart = a * ((here[:, None] - far).square().sum(2) + 1e-6) ** b
    attraction = torch.log1p(scaled)
    repulsion = (torch.log1p(apart) - torch.log(apart + 1e-4)).sum(1)
    return (weight * (attraction + repulsion)).mean()
