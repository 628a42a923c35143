"""What a folder that scfm exported holds beside the files of transformers: tokenizer, head, pooling weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scfm.config import check_stored
from scfm.migrate import migrate_config
from scfm.published.weights import read_json, read_tensors
from scfm.trust.plain import plain_fault

#: What the checkpoint says of itself, and which run and step it was exported from.
ABOUT = "scfm.json"
#: Weights of the head, and of a pooling that has some (``embedding_pool=weighted`` and ``denoised``).
HEAD, READOUT = "head.safetensors", "readout.safetensors"
#: Keys of a model that the config of transformers has no place for.
_MODEL = ("embedding_value", "embedding_input", "embedding_length", "layer_length")


@dataclass(frozen=True)
class Exported:
    """What a checkpoint has and a published folder lacks.

    Attributes:
        model: keys of the model's yaml.
        model_length: longest cell that the model reads; None: as many tokens as it has positions.
        max_length: where the training cut cells; None: where the tokenizer does.
        tokenizer: its state.
        head: entry ``head`` of the config; None where there are no weights of one.
        classes: class names by obs column.
        batches: experimental batches by obs column.
        fields: features of second modalities.
        head_weights: ``task.*``.
        readout: weights of the pooling.
    """

    model: Mapping[str, Any]
    model_length: int | None
    max_length: int | None
    tokenizer: Mapping[str, Any]
    head: Mapping[str, Any] | None
    classes: Mapping[str, tuple[str, ...]]
    batches: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, tuple[str, ...]]
    head_weights: Mapping[str, Tensor]
    readout: Mapping[str, Tensor]

    def positions(self, table: int) -> int:
        """Longest cell that the model reads, of a model with so many positions."""
        length = self.model_length
        return table if length is None else min(length, table)


def read_exported(folder: Path) -> Exported | None:
    """Read ``scfm.json`` and the weights beside it; None where it is no export of scfm.

    Raises:
        ValueError: it is damaged, or its config names something that a config must not name.
    """
    if not (folder / ABOUT).is_file():
        return None
    about, where = read_json(folder / ABOUT), f"{folder / ABOUT}"
    fault = plain_fault(about) or _fault(about)
    if fault is not None:
        raise ValueError(f"{where} is damaged: it {fault}; export the model again")
    config = migrate_config(about["config"])
    check_stored(config, where)
    head = {f"task.{name}": value for name, value in _tensors(folder / HEAD).items()} if "head" in config else {}
    model = {key: config["model"][key] for key in _MODEL if key in config["model"]}
    if about["command"] == "finetune":  # a head reads cells as they were cut in training
        model.pop("embedding_length", None)
    return Exported(
        model=model,
        model_length=config["model"].get("max_length"),
        max_length=config.get("data", {}).get("max_length"),
        tokenizer=about["tokenizer"],
        head=config["head"] if head else None,
        head_weights=head,
        readout=_tensors(folder / READOUT),
        **{name: _names(about.get(name, {})) for name in ("classes", "batches", "fields")},
    )


def _fault(about: Mapping[str, Any]) -> str | None:
    """What is missing or of another kind."""
    for key in ("config", "tokenizer", "classes", "batches"):
        if not isinstance(about.get(key), Mapping):
            return f"has no {key}"
    if not isinstance(about["config"].get("model"), Mapping):
        return "has no model in its config"
    if not isinstance(about.get("command"), str):
        return "does not say by which command it was trained"
    for key in ("classes", "batches", "fields"):
        for names in about.get(key, {}).values():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                return f"has {key} that are no lists of names"
    return None


def _names(lists: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path) if path.is_file() else {}
