"""Weights of a transformers folder, as tensors by name: nothing that lies in the folder is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from scfm.checkpoint import are_weights

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEXES = (f"{SAFETENSORS}.index.json", f"{PICKLE}.index.json")
#: Files of weights in the order in which they are looked for; no other file of a folder holds any that scfm opens.
FILES = (SAFETENSORS, INDEXES[0], PICKLE, INDEXES[1])

POINTER = b"version https://git-lfs"
#: A JSON file of a folder: the index of a sharded model has some 100 kB, a tokenizer.json of 20,000 genes 2 MB.
MAX_JSON = 1 << 26


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: ``model.safetensors``, its shards, or ``pytorch_model.bin``, whichever comes first.

    Raises:
        FileNotFoundError: the folder has none of them, or lacks a shard that its index names.
        ValueError: a Git-LFS pointer, a damaged file, or a pickle that asks for more than tensors.
    """
    name = next((name for name in FILES if (folder / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(f"{folder} has a config.json and no weights; expected {SAFETENSORS} or {PICKLE}")
    if name not in INDEXES:
        return read_tensors(folder / name)
    places = read_json(folder / name).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(one, str) and Path(one).name == one for one in places.values()
    ):
        raise ValueError(f"{folder / name} has no weight_map of tensors to files of its folder; copy the folder again")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise FileNotFoundError(
                f"{folder / name} names the file {shard}, which is not there; copy the folder again"
            )
        weights |= read_tensors(folder / shard)
    lost = sorted(places.keys() ^ weights.keys())
    if lost:
        raise ValueError(f"{folder / name} and its files differ in {len(lost)} tensors ({lost[0]}, ...); copy it again")
    return weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by its ending ``.safetensors`` or, through ``weights_only``, ``.bin``.

    Raises:
        ValueError: as for :func:`read_weights`.
    """
    require_whole(path)
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (
        safetensors.SafetensorError,
        Exception,
    ) as error:  # a file that was made to be wrong can be wrong in any way
        raise ValueError(
            f"{path} cannot be read as weights: it is cut off, damaged, or asks for more than tensors "
            f"({type(error).__name__}); download it again, or ask for {SAFETENSORS}"
        ) from error
    if not are_weights(weights):
        raise ValueError(f"{path} holds other things than dense tensors by name; expected the weights of a model")
    return weights


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"  # torch before 1.6 wrote another format, which cannot be mapped
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def require_whole(path: Path) -> None:
    """Refuse a Git-LFS pointer.

    Raises:
        ValueError: it is one.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"{path} is a Git-LFS pointer of {path.stat().st_size} bytes, not the file itself: run `git lfs pull` "
                "in its folder, or download the file"
            )


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none, is too large, or is a Git-LFS pointer.
    """
    require_whole(path)
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; expected a JSON file of at most {MAX_JSON:,}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}; expected a JSON object")
    return value
