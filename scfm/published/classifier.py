"""Heads of published classifiers: cells, genes and several tasks at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scfm.config import build, check_stored
from scfm.head.annotation.pooled import PooledClassifier
from scfm.published.architecture import Architecture
from scfm.published.gene_classifier import LABEL as GENE_LABEL
from scfm.published.gene_classifier import PREFIX
from scfm.tokenizer.dictionary import read_dictionary
from scfm.types import Spec
from scfm.vocab import Vocab

log = logging.getLogger(__name__)

#: obs column that the head of a published cell classifier speaks of.
LABEL = "published"
_TASK = re.compile(r"classification_heads\.(\d+)\.(weight|bias)")


@dataclass(frozen=True)
class HeadParts:
    """A head as a checkpoint holds it: entry ``head`` of the config, class names by column, weights ``task.*``."""

    config: Mapping[str, Any]
    classes: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, Tensor]


def read_head(
    weights: Mapping[str, Tensor], architecture: Architecture, vocab: Vocab, labels: str | None, where: str
) -> HeadParts | None:
    """The head of a published classifier; None where there is none.

    Args:
        weights: what is not of the backbone.
        architecture: of the folder.
        vocab: of the model.
        labels: path of the class names: {id: name}, or {task: {name: id}} of a multi-task classifier.
        where: the folder, for messages.

    Raises:
        ValueError: class names that do not fit, or weights that are no head.
    """
    if not any(name.startswith(("classifier.", "classification_heads.")) for name in weights):
        return None  # a pooler alone was never trained
    if architecture.name == "BertForTokenClassification":
        return _read_gene_classifier(weights, architecture, labels, where)
    tasks = sorted({int(found[1]) for name in weights if (found := _TASK.fullmatch(name))})
    kind = "bert"
    if tasks:
        kind = "attention" if "attention_pool.attention_weights" in weights else "first"
    linear = [f"classification_heads.{i}" for i in tasks] or ["classifier"]
    extra = (
        set(weights)
        - _known(linear, kind)
        - ({"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if tasks else set())
    )
    missing = _known(linear, kind) - set(weights)
    if missing or extra or tasks != list(range(len(tasks))):
        raise ValueError(
            f"the head of {where} is not that of {architecture.name or 'a multi-task classifier'}; missing: "
            f"{', '.join(sorted(missing)) or 'nothing'}; left over: {', '.join(sorted(extra)) or 'nothing'}"
        )
    sizes = [len(weights[f"{name}.bias"]) for name in linear]
    classes = _class_names(sizes, labels, architecture, multiple=bool(tasks))
    label: Any = list(classes) if tasks else LABEL
    node: dict[str, Any] = {
        "_target_": f"{PooledClassifier.__module__}.PooledClassifier",
        "label": label,
        "pooler": kind,
    }
    check_stored({"head": node}, where)
    task = build(node, Spec(vocab, architecture.sizes["width"], classes))
    state = dict(task.state_dict())
    for i, name in enumerate(linear):
        state |= {f"columns.{i}.layers.1.{end}": weights[f"{name}.{end}"] for end in ("weight", "bias")}
    poolers = {
        "bert": ("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        "attention": ("attention_pool.attention_weights",),
    }
    for name in poolers.get(kind, ()):
        state[f"state.pooler.{name.rpartition('.')[2]}"] = weights[name]
    return HeadParts({"head": node}, classes, {f"task.{name}": value for name, value in state.items()})


def _read_gene_classifier(
    weights: Mapping[str, Tensor], architecture: Architecture, labels: str | None, where: str
) -> HeadParts:
    """The linear layer of a classifier of genes, which tables of genes read (``scfm-embed what=gene``)."""
    sizes = {name: tuple(value.shape) for name, value in weights.items()}
    n = sizes.get("classifier.bias", (0,))[0]
    if sizes != {"classifier.weight": (n, architecture.sizes["width"]), "classifier.bias": (n,)}:
        raise ValueError(f"the head of {where} is not that of {architecture.name}: {sizes}; copy the folder again")
    names = _class_names([n], labels, architecture, multiple=False)[LABEL]
    log.info("%s is a classifier of genes; scfm-embed what=gene writes its probabilities of %s.", where, list(names))
    kept = {f"{PREFIX}{end}": weights[f"classifier.{end}"] for end in ("weight", "bias")}
    return HeadParts({}, {GENE_LABEL: names}, kept)


def _known(linear: Sequence[str], kind: str) -> set[str]:
    names = {f"{name}.{end}" for name in linear for end in ("weight", "bias")}
    if kind == "bert":
        names |= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    return names | ({"attention_pool.attention_weights"} if kind == "attention" else set())


def _class_names(
    sizes: Sequence[int], labels: str | None, architecture: Architecture, *, multiple: bool
) -> dict[str, tuple[str, ...]]:
    """Names of the classes by obs column, from the user's file, the config, or as numbers."""
    given = None if labels is None else read_dictionary(labels)
    if multiple:
        tasks = given if given is not None else {f"{LABEL}_{i}": None for i in range(len(sizes))}
        if len(tasks) != len(sizes):
            raise ValueError(f"labels={labels} names {len(tasks)} tasks; the model has {len(sizes)}")
        return {
            str(task): _names(names, size, labels) for (task, names), size in zip(tasks.items(), sizes, strict=True)
        }
    return {LABEL: _names(given if given is not None else architecture.config.get("id2label"), sizes[0], labels)}


def _names(names: Any, size: int, labels: str | None) -> tuple[str, ...]:
    """Names of classes 0, 1, ... of a dictionary id -> name or name -> id; as numbers where there is none."""
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(size))
    by_id: dict[int, str] = {}
    for key, value in names.items() if isinstance(names, Mapping) else ():
        is_id = type(key) is int or (isinstance(key, str) and key.isdecimal() and isinstance(value, str))
        number, name = (key, value) if is_id else (value, key)
        if str(number).isdecimal():
            by_id[int(number)] = str(name)
    if sorted(by_id) != list(range(size)) or len(set(by_id.values())) != size:
        where = "id2label of config.json" if labels is None else f"labels={labels}"
        raise ValueError(
            f"{where} names the classes {sorted(by_id)[:8]}; the model has {size}: give labels=, a file with one name "
            f"for each of 0 ... {size - 1}"
        )
    return tuple(by_id[i] for i in range(size))
