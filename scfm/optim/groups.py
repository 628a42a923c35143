"""Groups of parameters: with or without weight decay, hidden matrices, depth."""

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in at most three groups.

    ``matrix``: the two-dimensional weights of the numbered layers; ``table``: embeddings and whatever else has two
    dimensions (heads); ``vector``: every bias, norm and scalar, without weight decay. Tied parameters come once.

    Args:
        module: anything; the layers are the entries of its ``nn.ModuleList``.

    Returns:
        Groups for a torch optimizer. Beside ``params`` each has ``kind``, and ``depths``: for each parameter 0 in the
        embeddings, i in layer i, one more than the last layer after that.

    Raises:
        ValueError: nothing to train.
    """
    depth_of, last = _depths(module)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves empty tensors behind
        kind = "vector" if len(shape) < 2 else "matrix" if id(parameter) in depth_of and len(shape) == 2 else "table"
        depth = depth_of.get(id(parameter), 0 if _in_embeddings(name) else last + 1)
        group = groups.setdefault(kind, {"params": [], "kind": kind, "depths": []})
        group["params"].append(parameter)
        group["depths"].append(depth)
    if not groups:
        raise ValueError("there is no parameter to train: everything is frozen; unfreeze a layer or take another head")
    if "vector" in groups:
        groups["vector"]["weight_decay"] = 0.0
    return [groups[kind] for kind in ("matrix", "table", "vector") if kind in groups]


def _depths(module: nn.Module) -> tuple[dict[int, int], int]:
    """Layer of each parameter in the longest ``nn.ModuleList``, and the number of layers."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    layers = max(lists, key=len, default=nn.ModuleList())
    return {id(p): i for i, layer in enumerate(layers, start=1) for p in layer.parameters()}, len(layers)


def _in_embeddings(name: str) -> bool:
    """Transformers' names: ``embeddings.…`` in BERT, ``wte`` and ``wpe`` in GPT-2."""
    return any(part.startswith("embed") or part in ("wte", "wpe") for part in name.split("."))
