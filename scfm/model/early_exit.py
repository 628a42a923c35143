"""Hidden states of an inner layer without the layers above it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scfm.batch import Batch
from scfm.model.backbone import Backbone as Transformer
from scfm.types import Backbone


class _Reached(Exception):  # noqa: N818 (it is no error)
    """Carries the states out of the model."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__("the wanted layer is reached")
        self.states = states


def hidden_until(backbone: Backbone, batch: Batch, layer: int) -> torch.Tensor:
    """The same as ``backbone.hidden(batch, layer)``, (T, D), but layers above ``layer`` do not run.

    Args:
        backbone: one device's; a backbone of another kind runs as it is.
        batch: packed cells.
        layer: Python index into [input embeddings, layer 1, ..., layer n].
    """
    depth = layer if layer >= 0 else backbone.n_layers + 1 + layer
    if not isinstance(backbone, Transformer) or not 0 <= depth < backbone.n_layers:
        return backbone.hidden(batch, layer)

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    handle = backbone.layers[depth].register_forward_pre_hook(leave, with_kwargs=True)
    try:
        backbone(batch)
    except _Reached as reached:
        return reached.states.squeeze(0)[: batch.n_tokens]
    finally:
        handle.remove()
    raise AssertionError("a model without its layers")
