"""A map whose coordinates are a function of the cell, so that new cells land in an old map."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from scfm.head.pool import embed
from scfm.head.survey import Survey, looked_up, scattered
from scfm.head.view import generator_of
from scfm.head.visualization.edges import Edges
from scfm.head.visualization.layout import curve, fuzzy_graph, net_umap
from scfm.types import Backbone, Batch, Metrics, Spec

#: The obsm entry of the map.
KEY = "X_scfm_umap"


class ParametricUMAP(nn.Module):
    """A network 100-75-50-25 from the cell embedding to the plane; the backbone is read, never trained.

    ``form=regression`` (Cumulus, Li et al. 2020; pegasus): before training, a UMAP of a density-weighted sample is
    extended to all training cells and polished; L = mean squared error of its coordinates + ``decay`` · Σ w²/2n.
    ``form=cross_entropy`` (Sainburg et al. 2021): L = −Σ w_ij ln q_ij − Σ_neg ln(1 − q_ij),
    q = 1/(1 + a‖u−v‖^{2b}), with neighbours drawn by w and ``negatives`` random cells for each.
    Embeddings are divided by their largest standard deviation, coordinates scaled to one of 15 while fitting.

    Args:
        spec: what only the run knows.
        form: ``regression`` or ``cross_entropy``.
        neighbours: of UMAP's graph.
        min_dist: of UMAP.
        share: of the training cells in the sample.
        polish: epochs of UMAP over all training cells, from the extended sample.
        negatives: of the cross-entropy, for each cell.
        decay: L2 penalty of the regression.
        seed: of sample and UMAP.

    Raises:
        ValueError: a number out of its range; in training, too few cells.
    """

    causal: ClassVar[bool | None] = None
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
        neighbours: int = 15,
        min_dist: float = 0.5,
        share: float = 0.1,
        polish: int = 30,
        negatives: int = 5,
        decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if form not in ("regression", "cross_entropy"):
            raise ValueError(f"head.form={form!r}; expected regression or cross_entropy")
        if not 0 < share <= 1:
            raise ValueError(f"head.share={share}; expected a share above 0, at most 1")
        if neighbours < 2 or negatives < 1 or min(polish, min_dist, decay) < 0:
            raise ValueError(
                f"head.neighbours={neighbours}, negatives={negatives}, polish={polish}, min_dist={min_dist}, "
                f"decay={decay}; expected at least 2, at least 1, and numbers of 0 or more"
            )
        self.form, self.neighbours, self.min_dist, self.share = form, neighbours, min_dist, share
        self.polish, self.negatives, self.decay, self.seed = polish, negatives, decay, seed
        self.vocab = spec.vocab
        sizes = [spec.width, 100, 75, 50, 25, 2]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        for name, value in (("centre", torch.zeros(spec.width)), ("scale", torch.ones(()))):
            self.register_buffer(name, value)
        for name, value in (("middle", torch.zeros(2)), ("spread", torch.ones(())), ("curve", torch.ones(2))):
            self.register_buffer(name, value)
        self.register_buffer("layout", torch.zeros((0, 2)), persistent=False)
        self.register_buffer("table", torch.zeros((0, spec.width)), persistent=False)
        self.graph: Edges | None = None
        self.n_cells = 0

    def prepare(self, survey: Survey) -> None:
        """Lay out the training cells, or build their graph.

        Raises:
            ValueError: too few cells.
            ImportError: umap-learn is not installed.
        """
        rows, embedding = survey.rows[survey.train], survey.embedding[survey.train]
        self.centre.copy_(torch.from_numpy(embedding.mean(axis=0)))
        self.scale.fill_(max(float(embedding.std(axis=0).max()), 1e-6))
        features = self.features(torch.from_numpy(embedding)).numpy()
        self.curve.copy_(torch.tensor(curve(self.min_dist)))
        if self.form == "regression":
            layout = net_umap(
                features,
                share=self.share,
                neighbours=self.neighbours,
                min_dist=self.min_dist,
                polish=self.polish,
                seed=self.seed,
            )
            self.middle.copy_(torch.from_numpy(layout.mean(axis=0)))
            self.spread.fill_(float(layout.std(axis=0).max()) / 15.0)
            self.layout, self.n_cells = torch.from_numpy(scattered(rows, layout, missing=np.nan)), len(rows)
        else:
            self.table = torch.from_numpy(features)
            self.graph = Edges(fuzzy_graph(features, self.neighbours), rows)

    def features(self, state: Tensor) -> Tensor:
        """Scaled cell embeddings, (B, D) float32."""
        return (state.float() - self.centre) / self.scale

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss`` and ``n_targets``, the cells that have a place or neighbours in the map."""
        with torch.no_grad():
            features = self.features(embed(backbone, batch, self.vocab))
        found = self.network(features)
        return self._regress(found, batch) if self.form == "regression" else self._attract(found, batch)

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``map`` (B, 2) of each cell, and the ``embedding`` (B, D) it was made of; no other cell has a say."""
        state = embed(backbone, batch, self.vocab)
        return {"map": self.network(self.features(state)) * self.spread + self.middle, "embedding": state.float()}

    def project(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The obsm entry for embedded cells."""
        return {KEY: outputs["map"]}

    def artifacts(self) -> dict[str, str | list[str]]:
        """Plain values that go beside the projection."""
        return {"projection": "genes alone: new cells pass the backbone and the network, and land in the old map"}

    def summarise(self, outputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
        """``trustworthiness`` (Venna & Kaski 2001) of the cells' map, on at most 3000 of them; nan for a handful."""
        from sklearn.manifold import trustworthiness

        known = np.flatnonzero(np.isfinite(outputs["map"]).all(axis=1))
        if len(known) > 3000:
            known = np.random.default_rng(self.seed).choice(known, 3000, replace=False)
        k = min(self.neighbours, (len(known) - 1) // 2)
        if k < 1:
            return {"trustworthiness": float("nan")}
        return {
            "trustworthiness": float(trustworthiness(outputs["embedding"][known], outputs["map"][known], n_neighbors=k))
        }

    def _regress(self, found: Tensor, batch: Batch) -> Metrics:
        assert len(self.layout), "prepare(survey) makes the layout before the first step"
        truth = (looked_up(self.layout, batch.index, missing=np.nan) - self.middle) / self.spread
        known = truth.isfinite().all(1)
        n = known.sum()
        error = (found[known] - truth[known]).square().sum() / (2 * n.clamp(min=1))
        weights = sum(w.square().sum() for name, w in self.network.named_parameters() if name.endswith("weight"))
        loss = error + self.decay * weights / (2 * self.n_cells)
        return {"loss": loss, "error": error, "n_targets": n}

    def _attract(self, found: Tensor, batch: Batch) -> Metrics:
        assert self.graph is not None, "prepare(survey) builds the graph before the first step"
        generator = torch.Generator().manual_seed(generator_of(batch).initial_seed())
        cells, others, weight = self.graph.draw(batch.index.cpu(), generator)
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
