"""The linear layer of a published classifier of genes: probabilities of classes from the states of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scfm.checkpoint import Checkpoint

#: Names of its tensors in a checkpoint, beside ``backbone.*`` and ``task.*``; its class names lie under ``LABEL``.
PREFIX, LABEL = "gene_classifier.", "published_gene"


@dataclass(frozen=True)
class GeneClassifier:
    """Softmax of a linear layer on the states of the last layer, as ``BertForTokenClassification`` has it.

    Attributes:
        weight: (C, D).
        bias: (C,).
        classes: names of the C classes.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> GeneClassifier | None:
        """That of a checkpoint, None where it has none.

        Raises:
            ValueError: its tensors and class names do not fit together.
        """
        parts = {
            name.removeprefix(PREFIX): value for name, value in gene_classifier_weights(checkpoint.weights).items()
        }
        if not parts:
            return None
        classes = tuple(checkpoint.classes.get(LABEL, ()))
        if set(parts) != {"weight", "bias"} or parts["weight"].shape[:1] + parts["bias"].shape != (len(classes),) * 2:
            shapes = {name: tuple(value.shape) for name, value in parts.items()}
            raise ValueError(f"the classifier of genes in {checkpoint.path} is damaged: {shapes} for classes {classes}")
        return cls(parts["weight"].float(), parts["bias"].float(), classes)

    def probabilities(self, hidden: Tensor) -> Tensor:
        """Probabilities (T, C) float64 on the host of the classes of tokens with last states (T, D)."""
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        return torch.softmax(hidden.float() @ weight.T + bias, dim=1).double().cpu()


def gene_classifier_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a classifier of genes among those of a checkpoint."""
    return {name: value for name, value in weights.items() if name.startswith(PREFIX)}
