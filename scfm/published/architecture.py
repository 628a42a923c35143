"""The ``config.json`` of a transformers folder as a model of ``configs/model``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.activations import ACT2FN

BERT = {
    "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
    "feedforward": "intermediate_size", "positions": "max_position_embeddings", "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
}  # fmt: skip
GPT2 = {
    "layers": "n_layer", "width": "n_embd", "heads": "n_head", "feedforward": "n_inner", "positions": "n_positions",
    "activation": "activation_function", "dropout": "resid_pdrop",
}  # fmt: skip
#: Key of a config, false where the output layer is not the table of input embeddings; true where it is missing.
TIES = "tie_word_embeddings"
#: Further keys that change what the model computes; all others say nothing that a backbone needs.
_OPTIONS = {
    "bert": ("layer_norm_eps", "initializer_range", "type_vocab_size", TIES),
    "gpt2": ("layer_norm_epsilon", "initializer_range", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", TIES),
}
#: ``architectures[0]`` -> family. What lies beside the backbone, the names of the tensors say.
CLASSES = {
    "BertForMaskedLM": "bert", "BertModel": "bert", "BertForSequenceClassification": "bert",
    "BertForTokenClassification": "bert", "GPT2LMHeadModel": "gpt2", "GPT2Model": "gpt2",
}  # fmt: skip
_DEFAULTS = {"feedforward": None, "activation": None, "dropout": 0.1}


@dataclass(frozen=True)
class Architecture:
    """What a folder says of its model.

    Attributes:
        name: its class; empty for a multi-task classifier, which has none.
        family: ``bert`` or ``gpt2``.
        vocab_size: V.
        sizes: keys of a model yaml.
        options: keys of the transformers configuration.
        specials: ids by role, as far as they are given.
        config: all of it.
    """

    name: str
    family: str
    vocab_size: int
    sizes: Mapping[str, Any]
    options: Mapping[str, Any]
    specials: Mapping[str, int]
    config: Mapping[str, Any]

    @property
    def tied(self) -> bool:
        """Whether the output layer is the table of input embeddings."""
        return self.options.get(TIES) is not False

    @property
    def causal(self) -> bool:
        """Whether a token sees only the tokens before it."""
        return self.family == "gpt2"

    def model(self, embedding: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """A node of ``configs/model``.

        Args:
            embedding: ``embedding_layer`` and ``embedding_pool``.
            max_length: longest cell that the model was trained on, in tokens.
        """
        return {
            "_target_": "scfm.model.backbone.Backbone",
            "architecture": self.family,
            **self.sizes,
            "max_length": min(max_length, self.sizes["positions"]),
            "attention_dropout": 0.0,
            **embedding,
            "compile": False,
            "compile_mode": "default",
            "row": None,
            "checkpointing": False,
            "options": dict(self.options),
        }


def read_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """Decide what a folder holds, from its config alone.

    Args:
        config: ``config.json``.
        where: the folder, for messages.

    Raises:
        ValueError: a class that scfm does not read, or a size that is missing or no size.
    """
    classes = config.get("architectures") or [""]
    name = classes[0] if isinstance(classes, list) and isinstance(classes[0], str) else None
    family = CLASSES.get(name or "", str(config.get("model_type", "bert")) if name == "" else None)
    if family not in _OPTIONS or config.get("is_decoder") or config.get("add_cross_attention"):
        raise ValueError(
            f"{where} holds a model of class {name or config.get('model_type')!r}; scfm reads {', '.join(CLASSES)} and "
            "the published multi-task classifiers"
        )
    keys = BERT if family == "bert" else GPT2
    sizes = {ours: config.get(theirs, _DEFAULTS.get(ours)) for ours, theirs in keys.items()}
    sizes["feedforward"] = sizes["feedforward"] or (4 * sizes["width"] if isinstance(sizes["width"], int) else None)
    sizes["activation"] = sizes["activation"] or ("gelu" if family == "bert" else "gelu_new")
    vocab_size = config.get("vocab_size")
    whole = {"vocab_size": vocab_size, **{ours: sizes[ours] for ours in list(keys)[:5]}}
    wrong = [keys.get(ours, ours) for ours, value in whole.items() if type(value) is not int or not 0 < value < 1 << 24]
    if not isinstance(sizes["activation"], str) or sizes["activation"] not in ACT2FN:
        wrong.append(keys["activation"])
    if type(sizes["dropout"]) not in (int, float):
        wrong.append(keys["dropout"])
    if wrong:
        raise ValueError(f"{where}/config.json lacks {', '.join(wrong)} or has no size there; download it again")
    assert isinstance(vocab_size, int)
    options = {key: config[key] for key in _OPTIONS[family] if type(config.get(key)) in (int, float, bool)}
    if options.get(TIES) is True:  # as without it
        del options[TIES]
    specials = {role: config.get(f"{role}_token_id") for role in ("pad", "mask", "cls", "bos", "eos")}
    ids = {role: i for role, i in specials.items() if type(i) is int and 0 <= i < vocab_size}
    return Architecture(name or "", family, vocab_size, sizes, options, ids, config)
