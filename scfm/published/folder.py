"""Folders of transformers as checkpoints: published models that embed, fine-tune and evaluate as our own do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scfm.checkpoint import Checkpoint, read
from scfm.config import build, check_stored
from scfm.datasets.models import SCHEME as SHIPPED
from scfm.datasets.models import shipped_model
from scfm.model.backbone import Backbone
from scfm.published.architecture import Architecture, read_architecture
from scfm.published.classifier import HeadParts, read_head
from scfm.published.dictionaries import Dictionaries, read_tokenizer, require_vocab
from scfm.published.exported import ABOUT, READOUT, Exported, read_exported
from scfm.published.hub import SCHEME, find_snapshot
from scfm.published.names import complete_weights, divide_weights
from scfm.published.weights import FILES, read_json, read_weights
from scfm.tokenizer import Tokenizer, from_dict

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

    Its class decides what it is, never its name. The backbone is read in float32 whatever it is stored in. A folder
    that scfm exported has its own tokenizer and head beside, unless the user names dictionaries or classes.

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
    own = read_exported(folder)
    parts = divide_weights(read_weights(folder), where, tied=architecture.tied)
    tokens = _tokenizer(folder, architecture, given, own, tokenizer)
    config = _config(architecture, tokens, given, own)
    check_stored(config, where)
    if architecture.sizes["layers"] > len(parts.backbone):
        raise ValueError(
            f"{where}/{CONFIG} claims {architecture.sizes['layers']:,} layers, and the weights have "
            f"{len(parts.backbone)} tensors; copy the folder again"
        )
    with torch.device("meta"):
        made = build(config["model"], tokens.require_vocab(), causal=architecture.causal)
    weights, has_predictions = complete_weights(
        parts.backbone, made.model.state_dict(), float(architecture.options.get("initializer_range", 0.02)), where
    )
    if not has_predictions:
        log.warning("%s has no prediction head: embeddings are as published, masked prediction begins anew.", folder)
    if own is not None and own.head is not None and given.labels is None:
        head = HeadParts({"head": own.head}, own.classes, own.head_weights)
    else:
        head = read_head(parts.head, architecture, tokens.require_vocab(), given.labels, where) or HeadParts({}, {}, {})
    readout = {} if own is None else own.readout
    _require_readout(made, readout, where)
    full = {f"backbone.model.{name}": value for name, value in weights.items()}
    full |= {f"backbone.readout.{name}": value for name, value in readout.items()}
    return Checkpoint(
        path=folder,
        command="train",
        causal=architecture.causal,
        config={**config, **head.config},
        tokenizer=tokens.to_dict(),
        classes=head.classes,
        batches=own.batches if own else {},
        weights={**full, **head.weights},
        step=0,
        published=True,
        bare=not has_predictions,
        fields=own.fields if own else {},
    )


def _config(
    architecture: Architecture, tokenizer: Tokenizer, given: Dictionaries, own: Exported | None
) -> dict[str, Any]:
    """Model and cut of cells, as a run's config has them."""
    length = given.max_length or tokenizer.max_length
    if own is not None and given.max_length is None:
        length = own.positions(architecture.sizes["positions"])
    model = architecture.model(embedding_rule(architecture, tokenizer), length)
    cut = own.max_length if own is not None and given.max_length is None else None
    return {"model": {**model, **(own.model if own else {})}, "data": {"max_length": cut}}


def _tokenizer(
    folder: Path,
    architecture: Architecture,
    given: Dictionaries,
    own: Exported | None,
    fallback: Mapping[str, Any] | None,
) -> Tokenizer:
    """That of an export of scfm; else from the dictionaries that the user names or that lie nearby."""
    if own is None or given.token_dictionary is not None:
        return read_tokenizer(folder, architecture, given, fallback)
    tokenizer = from_dict(own.tokenizer)
    require_vocab(tokenizer.require_vocab(), architecture, f"{folder / ABOUT}", str(folder))
    return tokenizer if given.max_length is None else replace(tokenizer, max_length=given.max_length)


def _require_readout(backbone: Backbone, readout: Mapping[str, Any], where: str) -> None:
    """Refuse an export without the weights of its pooling, which earlier releases did not write."""
    pooling = set() if backbone.readout is None else set(backbone.readout.state_dict())
    if pooling != set(readout):
        raise ValueError(
            f"{where} embeds cells by {backbone.embedding_pool!r}, and its {READOUT} does not hold the weights of that "
            "pooling; export the model again"
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
