"""The origin of an embedding, read from its checkpoint: backbones to compare with, and the stores it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from scfm.checkpoint import Checkpoint
from scfm.evaluation.methods.embeddings import Encoder
from scfm.evaluation.methods.method import FROZEN, UNTRAINED
from scfm.evaluation.origin.lookup import Lookup, Matches, find_cells
from scfm.evaluation.origin.origin import Origin
from scfm.genes.resolve import Species
from scfm.inference.batches import packed, trained_tokenizer
from scfm.inference.embedding_rule import reread
from scfm.inference.load import build_backbone, checkpoint_vocab, restore_backbone
from scfm.inference.predict import embed_step, predict
from scfm.model.readout import reads_counts
from scfm.published.dictionaries import Dictionaries
from scfm.published.folder import read_checkpoint
from scfm.store.token_store import TokenStore
from scfm.tokenizer import Tokenizer, from_dict
from scfm.tokenizer.token_counts import gather_counts
from scfm.types import Ragged

log = logging.getLogger(__name__)

#: Tokens of a micro-batch.
TOKENS = 16_384


@dataclass(frozen=True)
class FileGenes:
    """The genes of a file, and how they find their tokens.

    Attributes:
        names: (G,) as found.
        species: what they are of, see :data:`scfm.genes.resolve.Species`.
        alias: the user's own names; None where there are none.
    """

    names: list[str]
    species: Species = "human"
    alias: Mapping[str, str] | None = None

    def columns(self, tokenizer: Tokenizer) -> np.ndarray:
        """(G,) int32 token ids, -1 where there is none."""
        return tokenizer.harmonize(self.names, species=self.species, alias=self.alias).columns


def read_origin(checkpoint: Checkpoint, genes: FileGenes, seed: int) -> Origin:
    """What a checkpoint says about the embedding that it made.

    Args:
        checkpoint: pretrained or fine-tuned.
        genes: of the columns of the counts.
        seed: of the random weights.
    """
    return Origin(encoders(checkpoint, genes, seed), corpora(checkpoint, genes), training_cells(checkpoint, genes))


def encoders(checkpoint: Checkpoint, genes: FileGenes, seed: int) -> dict[str, Encoder]:
    """Encoders of counts to compare the embeddings of a checkpoint with.

    Args:
        checkpoint: that made the embedding in question.
        genes: of the columns of the counts.
        seed: of the random weights.

    Returns:
        A backbone of the same architecture with random weights and, where the checkpoint is of a fine-tune, the
        backbone that it started from; without the latter where its file is gone.
    """
    random_start = partial(encode, partial(random_backbone, checkpoint, seed), checkpoint, genes)
    backbones: dict[str, Encoder] = {UNTRAINED: random_start}
    before = read_pretrained(checkpoint)
    if before is not None and before is not checkpoint:
        backbones[FROZEN] = partial(encode, partial(restore_backbone, before), before, genes)
    return backbones


def read_pretrained(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint that a fine-tune started from; a pretrained one is its own; None where the file is gone."""
    if checkpoint.command != "finetune":
        return checkpoint
    path = checkpoint.config["init_from"]
    if Path(path).exists() or "://" in path:
        try:
            config = checkpoint.config
            given = Dictionaries.from_config(config.get("tokenizer"), config.get("labels"))
            return reread(read_checkpoint(path, given, tokenizer=checkpoint.tokenizer), config["model"])
        except FileNotFoundError as error:  # a published model that is in no cache
            log.warning("%s", error)
    log.warning("%s, from which %s was fine-tuned, is gone: it is not compared with.", path, checkpoint.path)
    return None


def random_backbone(checkpoint: Checkpoint, seed: int) -> nn.Module:
    """A backbone of the checkpoint's architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(checkpoint)


def encode(make: Callable[[], Any], checkpoint: Checkpoint, genes: FileGenes, counts: csr_matrix) -> np.ndarray:
    """Embeddings of counts by a backbone.

    Args:
        make: builds the backbone.
        checkpoint: brings tokenizer and cut.
        genes: of the columns of the counts.
        counts: (B, G).

    Returns:
        (B, D) float32; zeros for cells without a gene of the vocabulary.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, n_cells = make().to(device), counts.shape[0]
    tokenizer = trained_tokenizer(checkpoint)
    columns = genes.columns(tokenizer)
    tokens = tokenizer.encode(counts, columns)
    beside = None
    if reads_counts(backbone):
        beside = Ragged(gather_counts(tokens, counts, np.arange(n_cells), columns), tokens.offsets)
    step = embed_step(backbone, checkpoint_vocab(checkpoint))
    batches = packed(tokens, np.arange(n_cells), budget=TOKENS, counts=beside)
    values = predict(step, batches, np.arange(n_cells), device)
    return np.nan_to_num(values["embedding"]) if values else np.zeros((n_cells, backbone.width), dtype=np.float32)


def corpora(checkpoint: Checkpoint, genes: FileGenes) -> dict[str, Lookup]:
    """Lookups in the stores that the backbone was pretrained on, by path; none for stores that are gone.

    Args:
        checkpoint: pretrained or fine-tuned.
        genes: of the columns of the counts.
    """
    before = read_pretrained(checkpoint)
    stores = [] if before is None else [path for path in before.stores if path.is_dir()]
    return {str(path): _lookup([path], genes) for path in stores}


def training_cells(checkpoint: Checkpoint, genes: FileGenes) -> Lookup | None:
    """A lookup in the store that a head was fine-tuned on; None without a head, or where the store is gone.

    Args:
        checkpoint: pretrained or fine-tuned.
        genes: of the columns of the counts.
    """
    known = checkpoint.command == "finetune" and checkpoint.stores and all(path.is_dir() for path in checkpoint.stores)
    return _lookup(checkpoint.stores, genes) if known else None


def _lookup(paths: Sequence[Path], genes: FileGenes) -> Lookup:
    """Which cells are in one of these stores, which share a vocabulary."""
    stores = [TokenStore.open(path) for path in paths]
    tokenizer = from_dict(stores[0].tokenizer)
    columns = genes.columns(tokenizer)

    def lookup(names: np.ndarray, counts: csr_matrix) -> Matches:
        return reduce(or_, (find_cells(store, tokenizer, columns, names, counts) for store in stores))

    return lookup
