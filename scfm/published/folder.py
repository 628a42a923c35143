"""Folders of transformers as checkpoints: published models that embed, fine-tune and evaluate as our own do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scfm.checkpoint import Checkpoint, read
from scfm.config import build, check_stored
from scfm.datasets.models import SCHEME as SHIPPED
from scfm.datasets.models import shipped_model
from scfm.published.architecture import Architecture, read_architecture
from scfm.published.classifier import HeadParts, read_head
from scfm.published.dictionaries import Dictionaries, read_tokenizer
from scfm.published.hub import SCHEME, find_snapshot
from scfm.published.names import complete_weights, divide_weights
from scfm.published.weights import FILES, read_json, read_weights
from scfm.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CONFIG = "config.json"


def read_checkpoint(
    path: str | Path, given: Dictionaries | None = None, *, tokenizer: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a checkpoint of scfm, or a published model.

    Args:
        path: a .ckpt file, a folder of ours, a transformers folder (one with ``config.json``), ``scfm://small``, the
            model that comes with the package, or ``hf://USER/NAME``, with ``/FOLDER`` and ``@REVISION`` where wanted.
        given: where the dictionaries of a published model are; by default they are looked for beside it.
        tokenizer: state of a tokenizer to take where no dictionary of a published model is found.

    Raises:
        FileNotFoundError: nothing lies there, or no dictionaries.
        ValueError: it cannot be read, see :func:`scfm.checkpoint.read` and :func:`read_folder`.
    """
    if str(path).startswith(SHIPPED):
        return read(shipped_model(str(path)))
    if str(path).startswith(SCHEME):
        return read_folder(find_snapshot(str(path)), given or Dictionaries(), tokenizer=tokenizer)
    folder = Path(path)
    if folder.name == CONFIG or folder.name in FILES:
        folder = folder.parent
    if (folder / CONFIG).is_file():
        return read_folder(folder, given or Dictionaries(), tokenizer=tokenizer)
    if folder.is_dir() and any((folder / name).is_file() for name in FILES):
        raise FileNotFoundError(f"{folder} has weights of transformers and no {CONFIG}; copy the whole folder")
    return read(path)


def read_folder(folder: Path, given: Dictionaries, *, tokenizer: Mapping[str, Any] | None = None) -> Checkpoint:
    """A transformers folder as a checkpoint of scfm; nothing in it is executed.

    Its class decides what it is, never its name. The backbone is read in float32 whatever it is stored in.

    Args:
        folder: with ``config.json`` and weights.
        given: where its dictionaries are; by default they are looked for beside it.
        tokenizer: state of a tokenizer to take where no dictionary is found.

    Returns:
        A checkpoint as pretraining leaves it (``command`` is ``train``), with the head of a published classifier
        beside the backbone, if there is one.

    Raises:
        FileNotFoundError: no weights, or no dictionaries.
        ValueError: a pointer of Git-LFS, a damaged or unsafe file, another class, a vocabulary of another size, or
            tensors that are not those of the model that the config describes.
    """
    where = str(folder)
    architecture = read_architecture(read_json(folder / CONFIG), where)
    parts = divide_weights(read_weights(folder), where)
    tokens = read_tokenizer(folder, architecture, given, tokenizer)
    length = tokens.max_length if given.max_length is None else given.max_length
    config: dict[str, Any] = {
        "model": architecture.model(embedding_rule(architecture, tokens), length),
        "data": {"max_length": None},
    }
    check_stored(config, where)
    if architecture.sizes["layers"] > len(parts.backbone):
        raise ValueError(
            f"{where}/{CONFIG} claims {architecture.sizes['layers']:,} layers, and the weights have "
            f"{len(parts.backbone)} tensors; copy the folder again"
        )
    with torch.device("meta"):
        expected = build(config["model"], tokens.require_vocab(), causal=architecture.causal).model.state_dict()
    weights, has_predictions = complete_weights(
        parts.backbone, expected, float(architecture.options.get("initializer_range", 0.02)), where
    )
    if not has_predictions:
        log.warning("%s has no prediction head: embeddings are as published, masked prediction begins anew.", folder)
    head = read_head(parts.head, architecture, tokens.require_vocab(), given.labels, where) or HeadParts({}, {}, {})
    return Checkpoint(
        path=folder,
        command="train",
        causal=architecture.causal,
        config={**config, **head.config},
        tokenizer=tokens.to_dict(),
        classes=head.classes,
        batches={},
        weights={**{f"backbone.model.{name}": value for name, value in weights.items()}, **head.weights},
        step=0,
        published=True,
    )


def embedding_rule(architecture: Architecture, tokenizer: Tokenizer) -> dict[str, Any]:
    """Which layer and which tokens make the embedding of a cell, as the published code does.

    Geneformer: the last but one layer, ``<cls>`` where there is one, else the mean; iSEEEK: the first token of the last
    layer; tGPT: the mean over the genes of the last layer. An export of scfm says it itself.
    """
    said = architecture.config.get("scfm_embedding_layer"), architecture.config.get("scfm_embedding_pool")
    if type(said[0]) is int and isinstance(said[1], str):
        return {"embedding_layer": said[0], "embedding_pool": said[1]}
    if architecture.causal:
        return {"embedding_layer": -1, "embedding_pool": "mean"}
    if not tokenizer.needs_counts:
        return {"embedding_layer": -1, "embedding_pool": "first"}
    has_cls = "cls" in tokenizer.require_vocab().specials
    return {"embedding_layer": -2, "embedding_pool": "cls" if has_cls else "mean"}
