"""Heads that transformers has a class for: Geneformer's classifiers of cells and of genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from scfm.checkpoint import Checkpoint
from scfm.head.annotation.pooled import PooledClassifier
from scfm.head.base import Head
from scfm.published.gene_classifier import GeneClassifier


@dataclass(frozen=True)
class TransformersHead:
    """A head under transformers' names.

    Attributes:
        architecture: the class that computes it.
        weights: beside ``bert.*``; the class has no prediction head.
        classes: their names.
    """

    architecture: str
    weights: Mapping[str, Tensor]
    classes: tuple[str, ...]


def find_transformers_head(checkpoint: Checkpoint, head: Head) -> TransformersHead | None:
    """The head as a class of transformers computes it; None where none does.

    Exact are a classifier of genes and ``head=annotation/pooled head.pooler=bert`` of one label column on BERT.
    """
    genes = GeneClassifier.from_checkpoint(checkpoint)
    if genes is not None:
        linear = {"classifier.weight": genes.weight, "classifier.bias": genes.bias}
        return TransformersHead("BertForTokenClassification", linear, genes.classes)
    is_bert = checkpoint.config["model"].get("architecture", "auto") in ("auto", "bert", "BertForMaskedLM")
    if (
        checkpoint.causal
        or not is_bert
        or type(head) is not PooledClassifier
        or head.state.how != "bert"
        or len(head.labels) != 1
    ):
        return None
    weights = head.state_dict()
    names = {"columns.0.layers.1": "classifier", "state.pooler": "bert.pooler.dense"}
    found = {f"{new}.{end}": weights[f"{old}.{end}"] for old, new in names.items() for end in ("weight", "bias")}
    return TransformersHead("BertForSequenceClassification", found, tuple(head.columns[0].names))
