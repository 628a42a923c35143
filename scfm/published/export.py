"""Our checkpoints as folders that transformers and the published tools read."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from scfm.checkpoint import Checkpoint, read_state
from scfm.head.base import Head
from scfm.io import atomic_write
from scfm.model.adapt import merge
from scfm.model.backbone import Backbone
from scfm.published.card import write_card
from scfm.published.exported import ABOUT, HEAD, READOUT
from scfm.published.transformers_head import TransformersHead, find_transformers_head
from scfm.published.vocabulary import write_tokenizer, write_vocabulary
from scfm.tokenizer import from_dict

DType = Literal["float32", "bfloat16", "float16"]
#: Keys of a run's config that name places of the machine it ran on.
_PLACES = (
    "store",
    "init_from",
    "output",
    "source",
    "ckpt_path",
    "old_store",
    "files",
    "callbacks",
    "logger",
    "trainer",
)


def export_model(
    checkpoint: Checkpoint,
    backbone: Backbone,
    head: Head,
    folder: str | Path,
    *,
    dtype: DType = "float32",
    license: str | None = None,
) -> list[str]:
    """Write a model as a folder: weights, config, vocabulary, tokenizer, model card, and beside them head and pooling.

    The weights are those that embed cells: averaged ones (``callbacks=ema``) where the run averaged, low-rank
    additions merged. The model given is not changed.

    Args:
        checkpoint: what the model was read from.
        backbone: the transformer.
        head: its head; one without parameters is not written.
        folder: written aside and renamed.
        dtype: of the weights.
        license: of the weights, for the card; None says that none was stated.

    Returns:
        Names of the files.

    Raises:
        FileExistsError: the folder exists and is not an earlier export of the same run.
        ValueError: an unknown dtype.
    """
    folder = Path(folder)
    kinds: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
    if dtype not in kinds:
        raise ValueError(f"dtype={dtype!r}; expected {', '.join(kinds)}")
    about = _describe(checkpoint, head)
    _require_room(folder, about)
    plain = merge(copy.deepcopy(backbone)).to(device="cpu", dtype=kinds[dtype])
    with atomic_write(folder) as part:
        part.mkdir()
        known = find_transformers_head(checkpoint, head)
        _write_model(plain, checkpoint, known, part, dtype)
        tokenizer = from_dict(checkpoint.tokenizer)
        write_vocabulary(tokenizer, part)
        write_tokenizer(tokenizer.require_vocab(), tokenizer.roles, plain.n_positions, part)
        for name, weighted in ((HEAD, head), (READOUT, plain.readout)):
            if weighted is not None and weighted.state_dict():
                _write_part(weighted, part / name)
        write_card(checkpoint, plain, head, part, known=known, dtype=dtype, license=license)
        files = sorted([*(path.name for path in part.iterdir()), ABOUT])
        text = json.dumps({**about, "export": {**about["export"], "files": files}}, ensure_ascii=False, indent=1)
        (part / ABOUT).write_text(text + "\n", encoding="utf-8")
    return files


def _describe(checkpoint: Checkpoint, head: Head) -> dict[str, Any]:
    """What the checkpoint says of itself, without places of the machine and without the additions that are merged."""
    state: dict[str, Any] = dict(read_state(checkpoint.path)["scfm"]) if checkpoint.path.is_file() else {}
    config = {key: value for key, value in checkpoint.config.items() if key not in (*_PLACES, "adapt", "hydra")}
    batches = {name: list(names) for name, names in checkpoint.batches.items()}
    classes = {name: list(names) for name, names in {**checkpoint.classes, **head.class_names()}.items()}
    about: dict[str, Any] = {
        **{key: state[key] for key in ("format", "version", "vocab_hash") if key in state},
        "command": checkpoint.command,
        "causal": checkpoint.causal,
        "config": config,
        "tokenizer": dict(checkpoint.tokenizer),
        "classes": classes,
        "batches": batches,
        "fields": {kind: list(names) for kind, names in checkpoint.fields.items()},
    }
    return {**about, "export": {"run": _run_hash(checkpoint), "step": checkpoint.step}}


def _run_hash(checkpoint: Checkpoint) -> str:
    """What all checkpoints of one run share and another run does not."""
    keys = ("name", "output", "store", "seed", "model", "objective", "head")
    told: list[Any] = [
        checkpoint.command,
        {key: checkpoint.config.get(key) for key in keys},
        checkpoint.tokenizer["vocab"],
    ]
    if checkpoint.published:  # without a run of its own: two models of one architecture differ by their folders
        told.append(str(checkpoint.path.resolve()))
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _require_room(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a folder that is anything but an earlier export of the same run, whole and without files of others."""
    if not folder.exists():
        return
    instead = "choose another output=..., or remove it first"
    try:
        before = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["export"]
        run, step, files = before["run"], int(before["step"]), set(before["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{folder} exists and is no export of scfm; {instead}") from None
    if run != about["export"]["run"]:
        raise FileExistsError(f"{folder} is the export of another run; {instead}")
    if step > about["export"]["step"]:
        raise FileExistsError(
            f"{folder} was exported from step {step} of this run, later than step {about['export']['step']}; {instead}"
        )
    foreign = sorted({path.name for path in folder.iterdir()} - files)
    if foreign:
        raise FileExistsError(f"{folder} holds {', '.join(foreign)} beside an export of this run; {instead}")


def _write_model(
    backbone: Backbone, checkpoint: Checkpoint, head: TransformersHead | None, folder: Path, dtype: str
) -> None:
    """``config.json`` and ``model.safetensors``, under the names that transformers' classes load.

    With a head that transformers knows the class is that of the head, which has no prediction head; a model whose
    prediction head was never trained (an imported ``BertModel``) is written without it.
    """
    path = folder / "config.json"
    if head is None and not checkpoint.bare:
        backbone.model.save_pretrained(folder)
        config = json.loads(path.read_text(encoding="utf-8"))
    else:
        weights = {name: value for name, value in backbone.model.state_dict().items() if name.startswith("bert.")}
        extra = {} if head is None else {name: value.to(backbone.model.dtype) for name, value in head.weights.items()}
        whole = {name: value.detach().cpu().contiguous() for name, value in {**weights, **extra}.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads(backbone.model.config.to_json_string()) | {"architectures": ["BertModel"]}
        if head is not None:
            names = {str(i): name for i, name in enumerate(head.classes)}
            ids = {name: i for i, name in enumerate(head.classes)}
            config |= {"architectures": [head.architecture], "id2label": names, "label2id": ids}
    specials = from_dict(checkpoint.tokenizer).require_vocab().specials
    config |= {"dtype": dtype, "torch_dtype": dtype}  # transformers before 4.56 knows the second name alone
    if config.get("model_type") == "bert":
        config["position_embedding_type"] = "absolute"
    config |= {f"{role}_token_id": specials.get(role) for role in ("pad", "eos")}
    config["bos_token_id"] = specials.get("bos", specials.get("cls"))
    config |= {
        "scfm_max_length": backbone.n_positions,
        "scfm_embedding_layer": backbone.embedding_layer,
        "scfm_embedding_pool": backbone.embedding_pool,
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_part(module: nn.Module, path: Path) -> None:
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt", "class": f"{type(module).__module__}.{type(module).__name__}"})
