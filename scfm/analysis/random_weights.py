"""The floor of every score: the same architecture with random weights."""

import torch

from scfm.inference.load import build_backbone
from scfm.inference.model import Model
from scfm.model.backbone import Backbone


def random_backbone(model: Model, seed: int) -> Backbone:
    """A backbone of a model's architecture with random weights, in evaluation mode, on the model's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(model.checkpoint).eval().to(model.module.device)
