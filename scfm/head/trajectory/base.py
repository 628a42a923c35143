"""What all trajectory heads share: a network to one number, and fates beside it."""

from __future__ import annotations

from typing import ClassVar, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from scfm.batch import Batch
from scfm.head.base import Arrays, Outputs, Written
from scfm.head.cell_state import CellState, Components, StateHead
from scfm.head.gene_components import GeneScore
from scfm.head.layers import perceptron
from scfm.head.ranges import check_not_negative, check_proper_shares
from scfm.head.trajectory.label import check_fate
from scfm.types import Backbone, Metrics, Spec

#: What scfm-embed writes.
PSEUDOTIME, STAGE, FATES = "scfm_pseudotime", "scfm_stage", "X_scfm_fates"


class TrajectoryOptions(TypedDict, total=False):
    """Arguments of :class:`Trajectory` with the same default in every head."""

    fate: str | None
    max_tokens: int | None
    dropout: float
    fate_weight: float


class Trajectory(StateHead):
    """Places cells along a process.

    Args:
        spec: vocabulary, classes and widths of the run.
        label: obs column that orders the cells; None for no such column.
        gene_components: linear components of the cell's genes beside the backbone's embedding; 0 for none.
        score: how the weight of a gene follows from its rank, see :class:`~scfm.head.gene_components.GeneComponents`.
        n_values: outputs of the network from which a cell's position follows.
        hidden: width of the hidden layer; 0 for a linear network.
        variable_components: principal components of 2,000 variable genes beside these, from counts; 0 for none.
        fate: obs column that names the terminal state of terminal cells; None for no fates.
        max_tokens: tokens of a cell that the backbone reads, at most; the components read all. None: no limit.
        dropout: before each linear layer.
        fate_weight: weight of the loss of the fates.

    Attributes:
        projection: what is needed to project new cells, in a sentence.

    Raises:
        ValueError: an unknown column, or a number out of its range.
    """

    metric: ClassVar[str] = "spearman"
    projection: ClassVar[str] = "genes alone: new cells pass the backbone and the head, independently of other cells"

    def __init__(
        self,
        spec: Spec,
        *,
        label: str | None,
        gene_components: int,
        score: GeneScore = "linear",
        n_values: int = 1,
        hidden: int = 0,
        variable_components: Components = 0,
        fate: str | None = None,
        max_tokens: int | None = None,
        dropout: float = 0.1,
        fate_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_proper_shares(dropout=dropout)
        check_not_negative(fate_weight=fate_weight)
        self.state = CellState(spec, gene_components, max_tokens, score=score, variable_components=variable_components)
        self.counts = self.state.counts
        self.label, self.fate, self.fate_weight = label, fate, fate_weight
        self.fates = check_fate(spec, fate)
        self.labels = tuple(name for name in (label, fate) if name is not None)
        self.learned = self.labels
        sizes = [self.state.width, *([hidden] if hidden else [])]
        self.line = perceptron([*sizes, n_values], dropout=dropout, norm=False)
        self.branches = perceptron([*sizes, len(self.fates)], dropout=dropout, norm=False) if self.fates else None

    def place(self, state: Tensor) -> Tensor:
        """Positions of cells along the process, (B,) float32, from their states (B, D)."""
        return self.line(state).squeeze(1).float()

    def fate_loss(self, state: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the terminal states (or lineages) of the cells that have one; 0 where none has."""
        assert self.branches is not None, "the head has no fates"
        truth = batch.obs[str(self.fate)]
        total = F.cross_entropy(self.branches(state).float(), truth, ignore_index=-1, reduction="sum")
        return total / (truth >= 0).sum().clamp(min=1)

    def add_fate_loss(self, metrics: Metrics, state: Tensor, batch: Batch) -> Metrics:
        """The metrics with the loss of the fates in them, where the head has fates."""
        if self.branches is None:
            return metrics
        fate_loss = self.fate_loss(state, batch)
        return metrics | {"loss": metrics["loss"] + self.fate_weight * fate_loss, "fate_loss": fate_loss}

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch) -> Outputs:
        """``pseudotime`` (B,), ``fates`` (B, K) probabilities where there are any, and the ``state`` (B, D)."""
        state = self.state(backbone, batch)
        outputs = {"state": state, **self.outputs(state)}
        if self.branches is not None:
            outputs["fates"] = self.branches(state).float().softmax(1)
        return outputs

    def outputs(self, state: Tensor) -> dict[str, Tensor]:
        """Predictions from states (B, D), other than fates.

        ``pseudotime`` (B,) is 0 to 1 over the training cells; new cells may lie outside.
        """
        return {"pseudotime": self.place(state)}

    def write(self, outputs: Arrays) -> Written:
        """Pseudotime, and fate probabilities in the order of ``uns["fates"]``."""
        obsm = {FATES: outputs["fates"]} if self.fates else {}
        uns = {"projection": self.projection, "fates": list(self.fates)}
        return super().write(outputs) | Written({PSEUDOTIME: outputs["pseudotime"]}, obsm, uns)


def regression_metrics(predicted: Tensor, truth: Tensor, *, order: float, softness: float) -> Metrics:
    """``loss``, ``error``, ``order_accuracy`` and ``n_targets`` of the cells with a time; 0 where none has one.

    The loss is Huber(t̂, t) + ``order`` · :func:`pairwise_order` (t̂/s, t), each a mean.

    Args:
        predicted: (B,) t̂.
        truth: (B,) t, nan where missing.
        order: weight of the pairwise term.
        softness: s.
    """
    known = truth.isfinite()
    predicted, truth, n = predicted[known], truth[known], known.sum()
    huber = F.huber_loss(predicted, truth, reduction="sum") / max(len(truth), 1)
    return {
        "loss": huber + order * pairwise_order(predicted / softness, truth),
        "error": (predicted - truth).abs().sum() / n.clamp(min=1),
        "order_accuracy": pair_accuracy(predicted, truth),
        "n_targets": n,
    }


def pairwise_order(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean of log(1 + e^{−sign(t_i−t_j)(t̂_i−t̂_j)}) over the pairs of different t (RankNet, Burges et al. 2005).

    Args:
        predicted: (B,) t̂.
        truth: (B,) t.
    """
    sign = torch.sign(truth[:, None] - truth[None, :])
    gap = predicted[:, None] - predicted[None, :]
    apart = sign != 0
    return (F.softplus(-sign * gap) * apart).sum() / apart.sum().clamp(min=1)


def pair_accuracy(predicted: Tensor, truth: Tensor) -> Tensor:
    """Share of the pairs of different t that are in the right order."""
    sign = torch.sign(truth[:, None] - truth[None, :])
    right = (sign * (predicted[:, None] - predicted[None, :]) > 0) & (sign != 0)
    return right.sum() / (sign != 0).sum().clamp(min=1)
