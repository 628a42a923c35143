"""A loaded model as a checkpoint again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scfm.checkpoint import Checkpoint, describe, read_state
from scfm.head.base import Head
from scfm.inference.load import checkpoint_vocab
from scfm.int8 import pack_weights
from scfm.model.backbone import Backbone
from scfm.published.gene_classifier import gene_classifier_weights
from scfm.strategy.checkpoint_io import write_checkpoint
from scfm.types import Spec


def save_model(checkpoint: Checkpoint, backbone: Backbone, head: Head, path: Path, *, int8: bool = False) -> Path:
    """Write a model, as it is now, as a checkpoint that every command reads; without optimizer state.

    Args:
        checkpoint: that the model was loaded from.
        backbone: with its weights.
        head: with its weights and classes.
        path: the .ckpt to write; returned.
        int8: store matrices as 8-bit numbers with a scale for each row.

    Raises:
        FileExistsError: something lies there.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another path")
    state = _published_state(checkpoint, backbone) if checkpoint.published else read_state(checkpoint.path)
    weights = {f"backbone.{name}": value.cpu() for name, value in backbone.state_dict().items()}
    weights |= {f"task.{name}": value.cpu() for name, value in head.state_dict().items()}
    weights |= gene_classifier_weights(checkpoint.weights)
    weights = pack_weights(weights) if int8 else weights
    about = dict(state["scfm"])
    about["classes"] = {**about["classes"], **head.class_names()}
    steps: dict[str, Any] = {name: state[name] for name in ("global_step", "epoch") if name in state}
    write_checkpoint({**steps, "scfm": about, "state_dict": weights}, path)
    return path


def _published_state(checkpoint: Checkpoint, backbone: Backbone) -> dict[str, Any]:
    """A published model as a checkpoint of step 0."""
    spec = Spec(checkpoint_vocab(checkpoint), backbone.width, checkpoint.classes)
    about = describe(checkpoint.command, checkpoint.config, checkpoint.tokenizer, spec, causal=checkpoint.causal)
    return {"scfm": about, "global_step": 0}
