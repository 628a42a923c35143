"""Surface proteins from genes, with intervals."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.block_ridge import RidgeChoice, choose_ridge, fit_ridge
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.layers import perceptron
from scfm.head.multimodal.marker_genes import MarkerGenes
from scfm.head.multimodal.panel import (
    Panel,
    Transform,
    choose_proteins,
    order_quantiles,
    protein_loss,
    require_quantiles,
    widen_intervals,
)
from scfm.head.ranges import check_not_negative, check_proper_shares
from scfm.head.survey import Survey
from scfm.metrics.modality.protein import protein_scores
from scfm.types import PROTEIN, Backbone, Metrics, Spec, field_key

log = logging.getLogger(__name__)

#: What scfm-embed writes: predictions, lower and upper ends.
WRITTEN, LOW, HIGH = "scfm_protein", "scfm_protein_low", "scfm_protein_high"
#: Groups of cells within which predictions are judged where no column names types.
N_GROUPS = 10


class Protein(StateHead):
    """Mean and quantiles of the proteins of a panel, from a cell's genes.

    ŷ is a linear layer and a two-layer perceptron on the state: the backbone's embedding, gene components, components
    of variable genes, and the few genes that tell the most of each protein. The linear layer begins and ends at a ridge
    regression, the perceptron at 0. ŷ_q is ŷ + a first step, then softplus steps, so that quantiles cannot cross.
    L = Σ_{(i,p) observed} [(ŷ − y)² + Σ_q max(q u, (q − 1) u)] / #observed with u = y − ŷ_q, where y is standardized
    over the training cells that have the protein. Cells of several panels are learned together.

    Args:
        spec: vocabulary, widths and proteins of the run.
        panel: proteins to learn; None takes all but isotype controls.
        transform: ``log1p``, ``clr`` or ``none``, see :class:`~scfm.head.multimodal.panel.Panel`.
        gene_components: linear components of the cell's genes beside the backbone's embedding; 0 for none.
        variable_components: components of variable genes, from counts; 0 for none.
        marker_genes: genes of each protein that are read one by one; 0 for none.
        hidden: width of the perceptron; 0 for a linear head.
        max_tokens: tokens of a cell that the backbone reads, at most.
        dropout: before each layer of the perceptron.
        quantiles: levels q, ascending; the first and the last are the ends of the interval.
        types: obs column of cell types, for the correlation within types; None judges within groups of similar cells.

    Attributes:
        names: the proteins.

    Raises:
        ValueError: a store without proteins, unknown names, or a number out of its range.
    """

    metric: ClassVar[str] = "r"
    columns: Tensor
    widened: Tensor
    penalties: Tensor
    scales: Tensor
    centers: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        panel: Sequence[str] | None = None,
        transform: Transform = "log1p",
        gene_components: int = 64,
        variable_components: Components = 0,
        marker_genes: int = 3,
        hidden: int = 64,
        max_tokens: int | None = None,
        dropout: float = 0.1,
        quantiles: Sequence[float] = (0.1, 0.25, 0.75, 0.9),
        types: str | None = None,
    ) -> None:
        super().__init__()
        check_proper_shares(dropout=dropout)
        check_not_negative(marker_genes=marker_genes, hidden=hidden)
        self.quantiles = require_quantiles(quantiles)
        self.names, columns = choose_proteins(spec, panel)
        self.types, self.each = types, marker_genes
        self.fields, self.learned = (PROTEIN,), ()
        if types is not None:
            spec.categories("head.types", types)
            self.labels = (types,)
        counts = bool(variable_components)
        self.state = CellState(
            spec,
            gene_components,
            max_tokens,
            score="counts" if counts else "log",
            variable_components=variable_components,
        )
        self.counts = self.state.counts
        n, width = len(self.names), marker_genes * len(self.names)
        self.markers = MarkerGenes(spec.vocab, width, "counts" if counts else "log")
        self.blocks = (*self.state.blocks, *([width] if width else []))
        self.width = self.state.width + width
        self.panel = Panel(n, transform)
        n_outputs = n * (1 + len(self.quantiles))
        self.line, self.steps = nn.Linear(self.width, n), nn.Linear(self.width, n * len(self.quantiles))
        self.deep = perceptron([self.width, hidden, n_outputs], dropout=dropout) if hidden else None
        self._start_at_zero()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("widened", torch.zeros(n))
        self.register_buffer("penalties", torch.full((n,), torch.nan))
        self.register_buffer("scales", torch.ones(len(self.blocks)))
        self.register_buffer("centers", torch.zeros(N_GROUPS, self.width - spec.width))

    def _start_at_zero(self) -> None:
        """The perceptron and the weights of the quantiles begin at 0: the first prediction is the ridge regression."""
        layers = [self.steps, *([self.deep[-1]] if self.deep is not None else [])]
        for layer in layers:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def prepare(self, survey: Survey) -> None:
        """Learn the scale of the proteins, choose genes, and begin at a ridge regression; on training cells alone.

        Raises:
            ValueError: training cells have none of the proteins, held-out cells share none with them, or the values are
                not what the transform is for.
        """
        super().prepare(survey)
        values = survey.fields[PROTEIN](np.arange(len(survey.rows)))[:, self.columns.cpu().numpy()]
        train = survey.train
        self.panel.fit(values[train])
        self._require_shared(values, train)
        truth = self._standardized(values[train])
        groups, blocks = survey.train_groups, self.state.blocks
        states = self.state.from_survey(survey)[train]
        if self.each:
            choice = choose_ridge(states, truth, blocks, groups)
            weight, bias = fit_ridge(states, truth, choice, blocks)
            assert survey.tokens is not None, "CellState.prepare has read them"
            places = np.flatnonzero(train)
            counts = None if survey.counts is None else survey.counts(places)
            self.markers.fit(survey.tokens(places), counts, truth - states @ weight.T - bias, self.each)
            states = np.column_stack([states, self.markers.transform(survey.tokens(places), counts)])
        choice = choose_ridge(states, truth, self.blocks, groups)
        self.penalties.copy_(torch.from_numpy(choice.penalties))
        self.scales.copy_(torch.tensor(choice.scales))
        self._set_line(states, truth)
        weight, bias = (part.detach().cpu().numpy() for part in (self.line.weight, self.line.bias))
        self._set_steps(truth - states @ weight.T - bias)
        self.centers.copy_(torch.from_numpy(_group_centers(states[:, self.state.deep :])))
        log.info("Proteins begin at a ridge regression; scales of the blocks %s.", choice.scales)

    def _require_shared(self, values: np.ndarray, train: np.ndarray) -> None:
        """Refuse training cells without proteins, and held-out cells that share none with them."""
        learned = self.panel.learned.numpy()
        if not learned.any():
            raise ValueError(
                f"none of the proteins ({', '.join(self.names[:8])}) varies over 10 training cells or more: there is "
                "nothing to learn. Stain more cells, or change the split (data.group, data.split_seed)"
            )
        held = np.isfinite(values[~train]).any(axis=0)
        if held.any() and not (held & learned).any():
            raise ValueError(
                "held-out cells and training cells have no protein in common: they were stained with other panels. Map "
                "the names (scfm-prepare side.alias=TSV), or change the split (data.group, data.split_seed)"
            )
        lost = [name for name, kept in zip(self.names, learned, strict=True) if not kept]
        if lost:
            log.warning("%s: too few training cells have these proteins, they are not predicted.", ", ".join(lost))

    def _set_line(self, states: np.ndarray, truth: np.ndarray) -> None:
        """The linear layer at a ridge regression of what the perceptron leaves."""
        choice = RidgeChoice(tuple(self.scales.tolist()), self.penalties.cpu().numpy().astype(np.float64))
        weight, bias = fit_ridge(states, truth, choice, self.blocks)
        with torch.no_grad():
            self.line.weight.copy_(torch.from_numpy(weight))
            self.line.bias.copy_(torch.from_numpy(bias))

    def _set_steps(self, residuals: np.ndarray) -> None:
        """Quantiles at those of the residuals (n, P) of each protein."""
        known = np.isfinite(residuals).any(axis=0)
        found = np.zeros((residuals.shape[1], len(self.quantiles)))
        found[known] = np.nanquantile(residuals[:, known], self.quantiles, axis=0).T
        found[:, 1:] = np.log(np.expm1(np.diff(found, axis=1).clip(min=1e-3)))  # softplus gives them back
        with torch.no_grad():
            self.steps.bias.copy_(torch.from_numpy(found.ravel()))

    def read(self, backbone: Backbone, batch: Batch) -> Tensor:
        """What the head reads of cells, (B, D)."""
        state = self.state(backbone, batch)
        return torch.cat([state, self.markers(batch).to(state.dtype)], dim=1) if self.each else state

    def place(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized mean (B, P) and quantiles (B, P, Q) from states (B, D)."""
        n, q = len(self.names), len(self.quantiles)
        mean, steps = self.line(state).float(), self.steps(state).float().view(-1, n, q)
        if self.deep is not None:
            more = self.deep(state).float()
            mean, steps = mean + more[:, :n], steps + more[:, n:].view(-1, n, q)
        return mean, mean.detach().unsqueeze(-1) + order_quantiles(steps)

    def forward(self, backbone: Backbone, batch: Batch) -> Metrics:
        """``loss``, ``error`` (mean square in units of the sd) and ``n_targets``, the observed entries."""
        mean, quantiles = self.place(self.read(backbone, batch))
        truth = self.panel.standardize(batch.obs[field_key(PROTEIN)][:, self.columns])
        loss, error, n = protein_loss(mean, quantiles, truth, self.quantiles)
        return {"loss": loss, "error": error, "n_targets": n}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``protein``, ``low`` and ``high`` (B, P) in the units of the transform, and the ``state`` (B, D)."""
        state = self.read(backbone, batch)
        mean, quantiles = self.place(state)
        low, high = quantiles[..., 0] - self.widened, quantiles[..., -1] + self.widened
        ends = {"protein": mean, "low": torch.minimum(low, high), "high": torch.maximum(low, high)}
        return {"state": state, **{name: self.panel.restore(values) for name, values in ends.items()}}

    def write(self, outputs: Arrays) -> Written:
        """Predictions and the ends of their intervals, in the order of ``uns["proteins"]``."""
        obsm = {WRITTEN: outputs["protein"], LOW: outputs["low"], HIGH: outputs["high"]}
        units = {"log1p": "ln(1 + counts)", "clr": "ln(1 + counts) less its mean over the panel", "none": "as given"}
        about = {
            "proteins": list(self.names),
            "units": units[self.panel.transform],
            "interval": [self.quantiles[0], self.quantiles[-1]],
        }
        return Written(obsm=obsm, uns=about)

    def observed(self, targets: Arrays) -> np.ndarray:
        """The measured proteins in the units of the predictions, (n, P); NaN where not measured."""
        values = torch.from_numpy(np.asarray(targets[field_key(PROTEIN)]))[:, self.columns.cpu()]
        return self.panel.transformed(values.float()).numpy()

    def groups(self, outputs: Arrays, targets: Arrays) -> np.ndarray:
        """(n,) the type of each cell, -1 where unknown; groups of similar cells where no column names types."""
        if self.types is not None:
            return np.asarray(targets[self.types])
        components = outputs["state"][:, self.state.deep :]
        centers = self.centers.cpu().numpy()
        return ((components[:, None] - centers[None]) ** 2).sum(axis=2).argmin(axis=1)

    def summarize(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Means over proteins of a whole epoch: ``r``, ``spearman``, ``rmse``, ``within_r``, ``coverage``."""
        table = protein_scores(
            self.observed(targets),
            outputs["protein"],
            outputs["low"],
            outputs["high"],
            sd=self.panel.sd.cpu().numpy(),
            groups=self.groups(outputs, targets),
        )
        return {name: float(np.nanmean(values)) if np.isfinite(values).any() else 0.0 for name, values in table.items()}

    def refit(self, outputs: Arrays, targets: Arrays) -> None:
        """Set the linear layer to the ridge regression of what the perceptron leaves."""
        truth = self._standardized(np.asarray(targets[field_key(PROTEIN)])[:, self.columns.cpu().numpy()])
        if self.deep is not None:
            states = torch.from_numpy(outputs["state"]).to(self.widened.device)
            with torch.no_grad():
                truth = truth - self.deep.eval()(states)[:, : len(self.names)].cpu().numpy()
        self._set_line(outputs["state"].astype(np.float64), truth)

    def _standardized(self, values: np.ndarray) -> np.ndarray:
        """(n, P) float64 targets from measured values."""
        given = torch.from_numpy(values).to(self.widened.device)
        return self.panel.standardize(given).cpu().numpy().astype(np.float64)

    def calibrate(self, outputs: Arrays, targets: Arrays) -> dict[str, float]:
        """Widen the intervals until they cover cells not used before; ``coverage`` before that."""
        sd = self.panel.sd.cpu().numpy()
        truth, low, high = self.observed(targets), outputs["low"], outputs["high"]
        inside = (truth >= low) & (truth <= high)
        known = np.isfinite(truth) & np.isfinite(low)
        more = widen_intervals(low / sd, high / sd, truth / sd, self.quantiles[-1] - self.quantiles[0])
        self.widened += torch.from_numpy(more).to(self.widened)
        return {"coverage": float(inside[known].mean()) if known.any() else 0.0}


def _group_centers(states: np.ndarray) -> np.ndarray:
    """(10, D) centers of groups of similar cells, by k-means; repeated where there are fewer cells."""
    from sklearn.cluster import KMeans

    if len(states) < 2 * N_GROUPS or not states.shape[1]:
        return np.repeat(states.mean(axis=0, keepdims=True), N_GROUPS, axis=0).astype(np.float32)
    return KMeans(N_GROUPS, n_init=3, random_state=0).fit(states).cluster_centers_.astype(np.float32)
