"""The classifiers of the published models: a pooling of the last layer, and a linear layer for each column."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from scfm.batch import Batch
from scfm.head.annotation.classifier import Classifier
from scfm.head.cell_state import CellState
from scfm.model.pooling import pool
from scfm.types import Backbone, Spec

Pooler = Literal["bert", "attention", "first"]


class PooledState(CellState):
    """A cell as one vector of the last layer.

    Args:
        spec: vocabulary and width D.
        how: see :class:`PooledClassifier`.

    Raises:
        ValueError: an unknown pooling.
    """

    def __init__(self, spec: Spec, how: Pooler) -> None:
        super().__init__(spec)
        self.norm = nn.Identity()  # type: ignore[assignment]
        self.how = how
        self.pooler: nn.Module
        if how == "bert":
            self.pooler = nn.Linear(spec.width, spec.width)
        elif how == "attention":
            self.pooler = AttentionPool(spec.width)
        elif how == "first":
            self.pooler = nn.Identity()
        else:
            raise ValueError(f"head.pooler={how!r}; expected bert, attention or first")

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The state, (B, D)."""
        hidden = backbone.hidden(batch, -1)
        if self.how == "attention":
            return self.pooler(hidden, batch)
        first = pool(hidden, batch, "first", self.vocab)
        return torch.tanh(self.pooler(first)) if self.how == "bert" else first


class AttentionPool(nn.Module):
    """Σ_t softmax_t(h_t · w) h_t over the tokens of each cell, and over no others.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_weights = nn.Parameter(torch.randn(width, 1) / width**0.5)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(T, D) -> (B, D); zeros for a cell without a token."""
        scores = (hidden @ self.attention_weights.to(hidden.dtype)).squeeze(1).float()
        cell = batch.token_cell
        top = scores.new_full((batch.n_cells,), -torch.inf).scatter_reduce(0, cell, scores, "amax")
        weight = (scores - top[cell]).exp()
        total = weight.new_zeros(batch.n_cells).index_add(0, cell, weight)
        share = (weight / total[cell]).unsqueeze(1)
        zeros = torch.zeros(batch.n_cells, hidden.shape[1], dtype=torch.float32, device=hidden.device)
        return zeros.index_add(0, cell, hidden.float() * share).to(hidden.dtype)


class PooledClassifier(Classifier):
    """Predicts the classes of cells as the published classifiers do, for one or several columns.

    Geneformer's cell classifier is ``bert`` (transformers' ``BertForSequenceClassification``: W tanh(P h_first)), its
    multi-task classifier ``attention`` or ``first``. The multi-task code lets the padding into its attention; here it
    is over a cell's own tokens alone, so that a result does not depend on the other cells of a batch. Imported
    classifiers are of this class, and can be written for transformers again; the class begins at random weights
    otherwise.

    Args:
        spec: classes, their counts, width, vocabulary.
        label: obs column, or several, each with a linear layer of its own.
        pooler: ``bert``, a linear layer and tanh of the first token; ``attention``, a learned weighted mean of all
            tokens; ``first``, the first token.
        weights: of the columns in the loss, in their order; null: all 1.
        dropout: before each linear layer.
        class_weights: whether the weight of a class is inverse to its frequency, within a factor of ten.
        reject: share of correct calls that calibration may turn into ``unknown``.

    Raises:
        ValueError: see :class:`~scfm.head.annotation.classifier.Classifier`.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        label: str | list[str],
        pooler: Pooler = "bert",
        weights: list[float] | None = None,
        dropout: float = 0.1,
        class_weights: bool = False,
        reject: float = 0.05,
    ) -> None:
        super().__init__(
            spec, label=label, gene_components=0, probe=False, dropout=dropout, class_weights=class_weights,
            reject=reject, weights=weights,
        )  # fmt: skip
        self.state = PooledState(spec, pooler)
