"""The label of a cell as a number that gradients and deletions can be asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scfm.analysis.attribution.gradients import CellScore
from scfm.batch import Batch
from scfm.head.annotation.classifier import Classifier
from scfm.head.annotation.prototype import Prototype
from scfm.inference.model import Model
from scfm.types import Spec


@dataclass(frozen=True)
class Labeler:
    """Scores of the classes of one label.

    Attributes:
        label: what is named.
        names: of the classes.
        logits: (B, C) of a batch, differentiable in what the backbone and the gene components read.
    """

    label: str
    names: tuple[str, ...]
    logits: Callable[[Batch], Tensor]

    def log_odds(self, classes: Tensor) -> CellScore:
        """Log p / (1 − p) of a class for each cell, which does not level off where the model is sure.

        Args:
            classes: (B,) class codes.
        """

        def score(batch: Batch) -> Tensor:
            logits = self.logits(batch)
            own = logits.gather(1, classes[:, None]).squeeze(1)
            others = logits.scatter(1, classes[:, None], -torch.inf)
            return own - others.logsumexp(1)

        return score


def head_labeler(model: Model) -> Labeler | None:
    """The first label of the model's annotation head; None without such a head."""
    head, backbone = model.head, model.backbone
    if isinstance(head, Classifier):
        return Labeler(head.labels[0], tuple(head.columns[0].names), lambda batch: head.logits(backbone, batch)[0])
    if isinstance(head, Prototype):
        return Labeler(head.labels[0], tuple(head.prototypes.names), lambda batch: head.logits(backbone, batch)[0])
    return None


def fit_probe(model: Model, label: str, names: tuple[str, ...], embedding: np.ndarray, codes: np.ndarray) -> Labeler:
    """A logistic regression of a label on the embedding of cells.

    Args:
        model: its backbone gives the embedding.
        label: what is named.
        names: of the classes.
        embedding: (n, D) of the cells to learn from.
        codes: (n,) their classes.
    """
    backbone = model.backbone
    spec = Spec(model.vocab, backbone.width, {label: names})
    probe = Classifier(spec, label=label, gene_components=0).to(model.module.device).eval()
    with torch.no_grad():
        states = probe.state.norm(torch.from_numpy(embedding).to(model.module.device)).cpu().numpy()
    probe.columns[0].regress(states, codes)
    return Labeler(label, names, lambda batch: probe.logits(backbone, batch)[0])
