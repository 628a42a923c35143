"""Models, vocabularies and batches that the GPU benchmark runs on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from scfm.batch import Batch
from scfm.config import build
from scfm.model.backbone import Backbone
from scfm.vocab import Vocab

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
#: name: (yaml, vocabulary, tokens of a step)
MODELS = {
    "10M": ("geneformer_v1_10m", 25_426, 131_072),
    "104M": ("geneformer_v2_104m", 20_275, 65_536),
    "316M": ("geneformer_v2_316m", 20_275, 32_768),
}
LENGTHS = ("2048", "128", "4096", "ragged")
TOY = {"toy": ("tiny", 500, 512)}
TOY_LENGTHS = ("16", "64", "ragged")


def made_vocab(size: int) -> Vocab:
    return Vocab(tuple(f"g{i}" for i in range(size)), {"pad": 0, "mask": 1, "eos": 2})


def made_batches(length: str, tokens: int, vocab: int, toy: bool, n: int = 4) -> list[Batch]:
    """Packed cells of one length, or of lengths as single-cell data have them (mean 1944, 5-95 %: 1024-3146)."""
    return [made_batch(np.random.default_rng(seed), length, tokens, vocab, toy, seed) for seed in range(n)]


def made_batch(rng: np.random.Generator, length: str, tokens: int, vocab: int, toy: bool, seed: int) -> Batch:
    if length == "ragged":
        lengths = np.clip(rng.lognormal(np.log(1850), 0.34, 4096), 64, 4096).astype(int) // (32 if toy else 1)
        lengths = lengths[np.cumsum(lengths) <= tokens]
    else:
        lengths = np.full(max(1, tokens // int(length)), int(length))
    # distinct genes inside a cell do not change the work; drawing them would take longer than the benchmark
    ids = rng.integers(3, vocab, lengths.sum())
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        boundaries=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        longest=int(lengths.max()),
        index=torch.arange(len(lengths)),
        seed=seed,
    )


def made_backbone(yaml: str, vocab: int, causal: bool, positions: int = 4096) -> Backbone:
    torch.manual_seed(0)
    node = OmegaConf.load(CONFIGS / f"{yaml}.yaml")
    sizes = {
        "architecture": "auto",
        "positions": positions,
        "dropout": 0.0,
        "max_length": None,
        "embedding_pool": "mean",
    }
    return build(OmegaConf.merge(node, sizes), made_vocab(vocab), causal)
