"""Models from checkpoints: built from the config inside, loaded strictly."""

from scfm.checkpoint import Checkpoint, load_weights, require_model_size
from scfm.config import build
from scfm.head.base import Head
from scfm.model.backbone import Backbone
from scfm.module import CellModule
from scfm.trust.allowed import shipped_targets
from scfm.types import Spec
from scfm.vocab import Vocab


def build_backbone(checkpoint: Checkpoint) -> Backbone:
    """A backbone of the checkpoint's architecture with random weights, no larger than those that are stored.

    Raises:
        ValueError: the config describes a larger one.
    """
    parts = checkpoint.config["model"], checkpoint_vocab(checkpoint)
    if parts[0]["_target_"] in shipped_targets("model"):  # another may not know tensors without values
        require_model_size(checkpoint, lambda: build(*parts, causal=checkpoint.causal))
    return build(*parts, causal=checkpoint.causal)


def restore_backbone(checkpoint: Checkpoint) -> Backbone:
    """The backbone of a checkpoint, adapters of a fine-tune included, with its weights."""
    backbone = build_backbone(checkpoint)
    if "adapt" in checkpoint.config:
        backbone = build(checkpoint.config["adapt"], backbone)
    load_weights(backbone, checkpoint, "backbone")
    return backbone


def restore_predictor(checkpoint: Checkpoint) -> CellModule:
    """A module that embeds cells and, after a fine-tune, predicts what its head predicts."""
    backbone = restore_backbone(checkpoint)
    vocab = checkpoint_vocab(checkpoint)
    spec = Spec(vocab, backbone.width, checkpoint.classes, checkpoint.batches, fields=checkpoint.fields)
    task = Head()
    if "head" in checkpoint.config:
        task = build(checkpoint.config["head"], spec)
        load_weights(task, checkpoint, "task")
    return CellModule(backbone, task, spec, {}).eval()


def checkpoint_vocab(checkpoint: Checkpoint) -> Vocab:
    """The vocabulary inside a checkpoint."""
    return Vocab.from_dict(checkpoint.tokenizer["vocab"])
