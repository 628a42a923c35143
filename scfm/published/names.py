"""Names of the tensors in published folders, and the names of the same tensors in a backbone of scfm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: A duplicate that transformers ties -> the tensor that it is.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.weight": "transformer.wte.weight",
}
#: No parameters: tables that older releases stored.
_BUFFERS = re.compile(r"(bert\.)?embeddings\.position_ids|transformer\.h\.\d+\.attn\.(bias|masked_bias)")
#: Names of the TensorFlow era.
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_HEADS = ("classifier.", "classification_heads.", "attention_pool.", "score.", "bert.pooler.")


@dataclass(frozen=True)
class Parts:
    """The tensors of a folder.

    Attributes:
        backbone: by transformers' names, ties left out.
        head: the rest of a classifier: pooler, linear layers.
    """

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]


def divide_weights(weights: Mapping[str, Tensor], where: str, *, tied: bool = True) -> Parts:
    """Sort the tensors of a folder into backbone and head, under today's names.

    Args:
        weights: as they are stored.
        where: the folder, for messages.
        tied: whether the output layer is the table of input embeddings, as the config says.

    Raises:
        ValueError: a tied duplicate that differs from what it is tied to, or two tensors of one name.
    """
    named: dict[str, Tensor] = {}
    prefix = _missing_prefix(weights)
    for stored, value in weights.items():
        name = stored
        for old, new in _OLD.items():
            name = name.replace(old, new)
        own = name.startswith(("cls.", "lm_head.", *_HEADS))
        name = name if own else prefix + name
        if _BUFFERS.fullmatch(name):
            continue
        if name in named:
            raise ValueError(f"{where} has the tensor {name} twice, once as {stored}; expected each once")
        named[name] = value
    if tied:
        _drop_ties(named, where)
    head = {name: value for name, value in named.items() if name.startswith(_HEADS)}
    return Parts({name: value for name, value in named.items() if name not in head}, head)


def _missing_prefix(weights: Mapping[str, Tensor]) -> str:
    """What a bare model leaves out: ``bert.`` or ``transformer.``."""
    if any(name.startswith(("bert.", "transformer.")) for name in weights):
        return ""
    return "transformer." if "wte.weight" in weights else "bert."


def _drop_ties(named: dict[str, Tensor], where: str) -> None:
    for name, source in TIED.items():
        if name not in named:
            continue
        if source not in named:  # stored under the duplicate's name alone
            named[source] = named.pop(name)
        elif not torch.equal(named[name], named[source]):
            raise ValueError(
                f"{where} has a {name} that differs from {source}, but its config.json does not say that its output "
                "layer is not tied to its embeddings (tie_word_embeddings: false); expected equal tensors, or that key"
            )
        else:
            del named[name]


def complete_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], std: float, where: str
) -> tuple[dict[str, Tensor], bool]:
    """All parameters of a backbone: ties filled in, and a prediction head that begins anew where none is stored.

    Args:
        weights: of the backbone, without ties.
        expected: of the model that the config describes: shapes by name.
        std: of the initial values of a new prediction head.
        where: the folder, for messages.

    Returns:
        Tensors by name, and whether the prediction head is stored.

    Raises:
        ValueError: a list of what is missing, left over or of another shape, both sides.
    """
    full = dict(weights)
    stored = any(name.startswith("cls.") for name in weights) or "cls.predictions.bias" not in expected
    if not stored:
        full |= _new_predictions(expected, std)
    ties = {name: source for name, source in TIED.items() if name in expected and name not in full}
    full |= {name: full[source] for name, source in ties.items() if source in full}
    missing = [f"{name} {tuple(expected[name].shape)}" for name in expected if name not in full]
    extra = [f"{name} {tuple(full[name].shape)}" for name in full if name not in expected]
    shapes = [
        f"{name} {tuple(full[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in full and full[name].shape != value.shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"the weights of {where} are not those of the model in its config.json; missing: {_list(missing)}; left "
            f"over: {_list(extra)}; of another shape: {_list(shapes)}. Expected a folder as save_pretrained writes it"
        )
    return full, stored


def _new_predictions(expected: Mapping[str, Tensor], std: float) -> dict[str, Tensor]:
    """A prediction head as transformers begins it (normal matrices, zero biases, unit norms), always the same one."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, like in expected.items():
        if name.startswith("cls.") and name not in TIED:
            shape = tuple(like.shape)
            drawn = len(shape) > 1
            one = float(name.endswith("LayerNorm.weight"))
            values[name] = std * torch.randn(shape, generator=generator) if drawn else torch.full(shape, one)
    return values


def _list(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more
