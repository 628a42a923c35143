"""Checkpoints that describe themselves: weights, config, vocabulary, tokenizer, class names; plain values only."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scfm import __version__
from scfm.config import check_stored
from scfm.int8 import unpack_weights
from scfm.migrate import migrate_config, migrate_weights
from scfm.trust.archive import archive_fault
from scfm.trust.plain import plain_fault
from scfm.types import Spec
from scfm.vocab import Vocab

FORMAT = 1
#: In a checkpoint folder of shards: the weights as one file.
WEIGHTS = "weights.ckpt"


#: Weights of the head as training left it, where the end of a fine-tune has changed them: a resumed run needs these.
TRAINED = "trained_head"


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
        fields: names of the features of each second modality that the store of the run keeps.
        published: whether it is another project's, a folder of transformers (:mod:`scfm.published.folder`).
        bare: whether that folder has no prediction head, so that the one of ``weights`` begins anew.
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
    published: bool = False
    bare: bool = False
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The files that hold it."""
        return sorted(path for path in self.path.iterdir() if path.is_file()) if self.published else [self.path]

    @property
    def stores(self) -> list[Path]:
        """The token stores that the run read, of a mix all of them, whether they are still there or not."""
        given = self.config.get("store")
        paths = given["paths"] if isinstance(given, Mapping) else [] if given is None else [given]
        return [Path(path) for path in paths]


def _whole(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


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
        "fields": {kind: list(names) for kind, names in spec.fields.items()},
    }


def read(path: str | Path, *, trained: bool = False) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed, and nothing is built before all of it has been checked.

    In this order: the checksums of the file, plain values and dense weights alone, the format, today's names, and
    :func:`scfm.config.check_stored` on the config.

    Args:
        path: the file, or a folder of shards with one beside them.
        trained: the head as training left it, before the end of a fine-tune changed it.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: it is cut off or changed, is no checkpoint of scfm, is of a newer format, or its config names
            something that a config must not name.
    """
    path = _file(Path(path))
    state = read_state(path)
    about = state.get("scfm")
    if about is None:
        raise ValueError(f"{path} was not written by scfm: it lacks the entry 'scfm' with vocabulary and config")
    fault = plain_fault(about)
    if fault is not None:
        raise ValueError(f"{path} is damaged or not safe: its entry 'scfm' {fault}")
    if not isinstance(about, Mapping) or not isinstance(about.get("format"), int):
        raise ValueError(f"{path} is damaged: it does not say of which format it is")
    if about["format"] > FORMAT:
        raise ValueError(f"{path} has format {about['format']}, this scfm reads up to {FORMAT}; upgrade scfm-framework")
    about = {**about, "config": migrate_config(about.get("config"))}
    _require_whole(path, about, state)
    check_stored(about["config"], str(path))
    return Checkpoint(
        path=path,
        command=about["command"],
        causal=about["causal"],
        config=about["config"],
        tokenizer=about["tokenizer"],
        classes={name: tuple(classes) for name, classes in about["classes"].items()},
        batches={name: tuple(batches) for name, batches in about["batches"].items()},
        weights=_weights(path, state, about["config"], trained=trained),
        step=state.get("global_step", 0),
        fields={kind: tuple(names) for kind, names in about.get("fields", {}).items()},
    )


def _weights(path: Path, state: Mapping[str, Any], config: Mapping[str, Any], *, trained: bool) -> Mapping[str, Tensor]:
    """Parameters by today's names, those that were stored as 8-bit numbers as float32."""
    try:
        plain = unpack_weights(state["state_dict"])
    except ValueError as error:
        raise ValueError(f"{path} is no whole checkpoint of scfm: {error}") from error
    return migrate_weights(plain | (state.get(TRAINED, {}) if trained else {}), config)


def _file(path: Path) -> Path:
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            raise ValueError(
                f"{path} is the folder of a run; name a checkpoint of it, {path / 'checkpoints'}/last.ckpt"
            )
        if not (path / WEIGHTS).is_file():
            raise ValueError(f"{path} is a folder of shards; make it readable with: scfm-consolidate checkpoint={path}")
        path = path / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}; expected a .ckpt file such as outputs/NAME/checkpoints/last.ckpt"
        )
    return path


def read_state(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint file, weights as views into it, once its checksums are right.

    Raises:
        ValueError: it is cut off, changed, or holds other things than tensors and plain values.
    """
    size = path.stat().st_size
    fault = archive_fault(path)
    try:
        if fault is not None:
            raise ValueError(fault)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = _load(path)
    except Exception as error:  # a file that was made to be wrong can be wrong in any way
        raise ValueError(
            f"{path} ({size} bytes) cannot be read as a checkpoint: it is cut off, damaged or of another kind "
            f"({fault or type(error).__name__}); use an earlier one of the same folder"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} was not written by scfm: it holds {type(state).__name__}, expected a checkpoint")
    return state


def _load(path: Path) -> Any:
    """What lies in a checkpoint, as views into the file; torch finds it by a name in UTF-8 alone, others are read."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _require_whole(path: Path, about: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose parts are not of the kind that :class:`Checkpoint` says."""
    names = {name: about.get(name) for name in ("classes", "batches")} | {"fields": about.get("fields", {})}
    config = about["config"] if isinstance(about["config"], Mapping) else {}
    max_length = config["data"].get("max_length", 1) if isinstance(config.get("data"), Mapping) else 0
    right = {
        "command": about.get("command") in ("train", "finetune"),
        "causal": isinstance(about.get("causal"), bool),
        "config": isinstance(config.get("model"), Mapping),
        "config.data.max_length": max_length is None or (isinstance(max_length, int) and max_length > 0),
        "tokenizer": isinstance(about.get("tokenizer"), Mapping),
        "state_dict": are_weights(state.get("state_dict")),
        TRAINED: are_weights(state.get(TRAINED, {})),
        "global_step": isinstance(state.get("global_step", 0), int),
        **{name: isinstance(value, Mapping) and all(map(_is_text, value.values())) for name, value in names.items()},
    }
    wrong = [name for name, fits in right.items() if not fits]
    if not wrong:
        vocab = Vocab.from_dict(about["tokenizer"].get("vocab") or {})
        wrong = [] if about.get("vocab_hash", vocab.hash) == vocab.hash else ["vocab_hash"]
    if wrong:
        raise ValueError(
            f"{path} is no whole checkpoint of scfm: {', '.join(wrong)} is missing or of a wrong kind; "
            "use an earlier one of the same folder"
        )


def _is_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def are_weights(weights: Any) -> bool:
    """Whether these are dense tensors by name, each as large as what is stored of it."""
    return isinstance(weights, Mapping) and all(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        for name, value in weights.items()
    )


def require_model_size(checkpoint: Checkpoint, build_backbone: Callable[[], nn.Module]) -> None:
    """Refuse a checkpoint whose model is larger than the weights that come with it, before memory is taken for it.

    Args:
        checkpoint: read.
        build_backbone: builds its backbone; called once, where tensors have shapes and no values.

    Raises:
        ValueError: naming both sizes.
    """
    held = {name: value for name, value in checkpoint.weights.items() if name.startswith("backbone.")}
    layers = checkpoint.config["model"].get("layers", 0)
    if isinstance(layers, int) and layers > len(held):
        raise ValueError(f"{checkpoint.path} claims a model of {layers:,} layers and holds {len(held)} tensors of it")
    with torch.device("meta"):
        claimed = sum(value.numel() for value in build_backbone().state_dict().values())
    stored = sum(value.numel() for value in held.values())
    if claimed > stored:
        raise ValueError(
            f"{checkpoint.path} claims a model of {claimed:,} parameters and holds {stored:,}: it does not fit the "
            "model it describes"
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
