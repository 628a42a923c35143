"""How much of a pretrained backbone a fine-tune changes: all of it, its upper layers, or low-rank additions.

:func:`reset_adaptation` comes first: what an earlier fine-tune froze or added has no say in this one.

What the embedding rule does not read (the prediction head, the layers above ``embedding_layer``) is frozen in every
case: it would get no gradient, and processes that train together would wait for it.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from scfm.model.backbone import Backbone


def reset_adaptation(backbone: Backbone) -> Backbone:
    """A backbone as a fine-tune finds it: low-rank additions of an earlier one merged, every parameter trained.

    Args:
        backbone: changed in place.

    Returns:
        The same backbone.
    """
    return merge(backbone).requires_grad_(True)


def full(backbone: Backbone) -> Backbone:
    """Train everything that cell embeddings are made of.

    Args:
        backbone: changed in place.

    Returns:
        The same backbone.
    """
    return _freeze_unread(backbone)


def frozen(backbone: Backbone, *, layers: int | None = None) -> Backbone:
    """Freeze the embeddings and the first layers (Geneformer's ``freeze_layers``), or everything.

    Args:
        backbone: changed in place.
        layers: how many layers, counted from the input; None freezes the whole backbone.

    Returns:
        The same backbone.

    Raises:
        ValueError: fewer than 0 or more layers than there are.
    """
    if layers is None:
        _freeze(backbone.parameters())
        return backbone
    if not 0 <= layers <= backbone.n_layers:
        raise ValueError(
            f"adapt.layers={layers}; this backbone has {backbone.n_layers} layers (null freezes all of it)"
        )
    upper = {id(p) for layer in backbone.layers for p in layer.parameters()}
    _freeze(p for name, p in backbone.named_parameters() if id(p) not in upper and not _is_final_norm(name))
    for layer in backbone.layers[:layers]:
        _freeze(layer.parameters())
    return _freeze_unread(backbone)


def lora(
    backbone: Backbone,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: list[str] | None = None,
) -> Backbone:
    """Freeze the backbone and train low-rank additions to its matrices (Hu et al. 2021), through peft.

    Args:
        backbone: changed in place; its state dict gets peft's names.
        rank: of the additions.
        alpha: their scale is ``alpha / rank``.
        dropout: before them.
        targets: names of the modules that get one; by default peft's choice for the architecture (query and value in
            BERT, ``c_attn`` in GPT-2).

    Returns:
        The same backbone.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: no module has such a name.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=type(backbone.config).__name__ == "GPT2Config",
    )
    peft.inject_adapter_in_model(config, backbone.model)
    return _freeze_unread(backbone)


def merge(backbone: Backbone) -> Backbone:
    """Add the low-rank additions to the matrices they belong to, and leave the plain model behind, ready to export.

    Args:
        backbone: changed in place.

    Returns:
        The same backbone, whose state dict has transformers' names again; without additions, as it was.
    """
    if not any(".lora_" in name for name, _ in backbone.named_parameters()):
        return backbone
    _peft()
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(backbone.model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    return backbone


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('adapt=lora needs peft: pip install "scfm-framework[lora]"') from error
    return peft


def _freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)


def _freeze_unread(backbone: Backbone) -> Backbone:
    """Freeze the prediction head, and the layers above the one that embeddings are read from."""
    body = {id(p) for p in backbone.model.base_model.parameters()}
    _freeze(p for p in backbone.parameters() if id(p) not in body)
    used = range(backbone.n_layers + 1)[backbone.embedding_layer]
    for layer in backbone.layers[used:]:
        _freeze(layer.parameters())
    if used < backbone.n_layers:
        _freeze(p for name, p in backbone.named_parameters() if _is_final_norm(name))
    return backbone


def _is_final_norm(name: str) -> bool:
    """GPT-2's ``ln_f``, Llama's ``norm``, ModernBERT's ``final_norm``: what comes after the last layer."""
    parts = name.split(".")
    return len(parts) > 1 and parts[-2] in ("ln_f", "norm", "final_norm") and not any(p.isdigit() for p in parts)
