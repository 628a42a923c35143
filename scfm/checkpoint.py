"""Checkpoints that describe themselves: weights, config, vocabulary, tokenizer, class names; plain values only."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scfm import __version__
from scfm.migrate import migrate_config
from scfm.types import Spec

FORMAT = 1
#: In a checkpoint folder of shards: the weights as one file.
WEIGHTS = "weights.ckpt"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of itself.

    Attributes:
        path: where it lies.
        command: ``train`` or ``finetune``.
        causal: whether the backbone was built causal.
        config: the resolved config of the run, plain values.
        tokenizer: state of the tokenizer (see ``scfm.tokenizer.from_dict``), vocabulary and medians included.
        classes: class names by obs column.
        batches: experimental batches by obs column.
        weights: parameters by name, ``backbone.*`` and ``task.*``.
        step: optimizer steps it was trained for.
    """

    path: Path
    command: str
    causal: bool
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    classes: Mapping[str, tuple[str, ...]]
    batches: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, Tensor]
    step: int

    @property
    def stores(self) -> list[Path]:
        """The token stores that the run read, of a mix all of them, whether they are still there or not."""
        given = self.config.get("store")
        paths = given["paths"] if isinstance(given, Mapping) else [] if given is None else [given]
        return [Path(path) for path in paths]


def _whole(path: str) -> str:
    return str(Path(path).resolve())


def describe(
    command: str, config: Mapping[str, Any], tokenizer: Mapping[str, Any], spec: Spec, *, causal: bool
) -> dict[str, Any]:
    """What :func:`read` needs, as plain values that ``torch.load(weights_only=True)`` accepts.

    The paths of the stores and of the checkpoint that the run began with are whole, to be found from any folder.
    """
    given = {name: config.get(name) for name in ("store", "init_from")}
    paths: dict[str, Any] = {name: _whole(path) for name, path in given.items() if isinstance(path, str)}
    if isinstance(given["store"], Mapping):  # of data=mix
        paths["store"] = {**given["store"], "paths": [_whole(path) for path in given["store"]["paths"]]}
    return {
        "format": FORMAT,
        "version": __version__,
        "command": command,
        "causal": causal,
        "config": {**config, **paths},
        "tokenizer": dict(tokenizer),
        "vocab_hash": spec.vocab.hash,
        "classes": {name: list(classes) for name, classes in spec.classes.items()},
        "batches": {name: list(batches) for name, batches in spec.batches.items()},
    }


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: it is cut off, is no checkpoint of scfm, or is of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise ValueError(f"{path} is a folder of shards; make it readable with: scfm-consolidate checkpoint={path}")
        path = path / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}; expected a .ckpt file such as outputs/NAME/checkpoints/last.ckpt"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) cannot be read as a checkpoint: it is cut off or of another kind "
            f"({type(error).__name__}); use an earlier one of the same folder"
        ) from error
    about = state.get("scfm") if isinstance(state, dict) else None
    if about is None:
        raise ValueError(f"{path} was not written by scfm: it lacks the entry 'scfm' with vocabulary and config")
    if about["format"] > FORMAT:
        raise ValueError(f"{path} has format {about['format']}, this scfm reads up to {FORMAT}; upgrade scfm-framework")
    return Checkpoint(
        path=path,
        command=about["command"],
        causal=about["causal"],
        config=migrate_config(about["config"]),
        tokenizer=about["tokenizer"],
        classes={name: tuple(classes) for name, classes in about["classes"].items()},
        batches={name: tuple(batches) for name, batches in about["batches"].items()},
        weights=state["state_dict"],
        step=state.get("global_step", 0),
    )


def load_weights(module: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    """Load ``backbone`` or ``task`` from a checkpoint, strictly.

    Raises:
        ValueError: any parameter is missing, left over, or of another shape.
    """
    weights = {
        name.removeprefix(f"{part}."): value
        for name, value in checkpoint.weights.items()
        if name.startswith(f"{part}.")
    }
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the {part} of {checkpoint.path} does not fit the model it describes: {error}") from error
