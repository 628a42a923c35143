"""Our names for sizes, translated into the configuration of a transformers architecture."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import transformers

from scfm.vocab import Vocab

SHORT = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel"}

#: Our name -> the names that architectures give it; every one that the configuration has is set.
NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers",),
    "width": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "feedforward": ("n_inner", "intermediate_size"),
    "positions": ("max_position_embeddings",),
    "activation": ("hidden_act", "activation_function", "hidden_activation"),
    "dropout": ("hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "hidden_dropout", "mlp_dropout"),
    "attention_dropout": ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout"),
}


def find_class(architecture: str, causal: bool) -> Any:
    """The transformers class of an architecture.

    Args:
        architecture: ``auto``, ``bert``, ``gpt2`` or the name of a class of transformers.
        causal: what the objective needs.

    Returns:
        The class.

    Raises:
        ValueError: no such class, one that is no language model, or one of the other causality.
    """
    if architecture == "auto":
        architecture = "gpt2" if causal else "bert"
    name = SHORT.get(architecture, architecture)
    is_causal = name.endswith(("ForCausalLM", "LMHeadModel"))
    if not is_causal and not name.endswith("ForMaskedLM"):
        raise ValueError(
            f"architecture={architecture!r}; expected auto, {', '.join(SHORT)}, or a transformers class whose name "
            "ends in ForMaskedLM, ForCausalLM or LMHeadModel"
        )
    model_class = getattr(transformers, name, None)
    if model_class is None:
        close = difflib.get_close_matches(name, dir(transformers), 1)
        raise ValueError(f"transformers has no {name}" + (f"; did you mean {close[0]}?" if close else ""))
    if is_causal != causal:
        needs, instead = ("causal", "gpt2") if causal else ("bidirectional", "bert")
        raise ValueError(
            f"the objective needs a {needs} backbone, but architecture={architecture} of this model is {name}; "
            f"choose a model with architecture auto or {instead}, or another objective (mlm: BERT, ar: GPT-2)"
        )
    return model_class


def build_config(
    model_class: Any,
    vocab: Vocab,
    sizes: Mapping[str, Any],
    options: Mapping[str, Any],
    causal: bool,
    attention: str,
) -> transformers.PreTrainedConfig:
    """The architecture's configuration, every key checked by name.

    Args:
        model_class: from :func:`find_class`.
        vocab: the tokens; special ids go into the configuration.
        sizes: values by our names (the keys of :data:`NAMES`).
        options: further keys of the configuration.
        causal: whether the model is a decoder, where the configuration asks.
        attention: name of the attention function.

    Returns:
        The configuration.

    Raises:
        ValueError: a size or an option that the configuration does not have, or a width no multiple of the heads.
    """
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"width={sizes['width']} must be a multiple of heads={sizes['heads']}")
    config_class = model_class.config_class
    default = config_class()
    values = {key: value for ours, value in sizes.items() for key in _keys(default, ours, value)}
    for key in options:
        if not hasattr(default, key):
            close = difflib.get_close_matches(key, list(vars(default)), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"options has {key!r}, which {config_class.__name__} does not have{hint}")
    specials = {f"{role}_token_id": vocab.specials.get(role) for role in ("pad", "bos", "eos")}
    if causal:
        # GPT-2 compares every batch with its pad id when it has one, which makes a GPU wait; no batch has a pad
        specials["pad_token_id"] = None
        values |= {"is_decoder": True} if hasattr(default, "is_decoder") else {}
    values |= {"vocab_size": len(vocab), "use_cache": False, **specials, **options}
    renamed = {config_class.attribute_map.get(key, key): value for key, value in values.items()}
    return config_class(**renamed, attn_implementation=attention)


def _keys(config: transformers.PreTrainedConfig, ours: str, value: Any) -> list[str]:
    """Names of the configuration for one of our sizes."""
    keys = [key for key in NAMES[ours] if hasattr(config, key)]
    if not keys and value:
        raise ValueError(
            f"{type(config).__name__} has no {ours} (looked for {', '.join(NAMES[ours])}); set it to 0 or null"
        )
    return keys
