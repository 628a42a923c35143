"""The usual start: the random weights of the model's own initialization."""

from scfm.data.module import CellData
from scfm.model.backbone import Backbone
from scfm.types import Spec


class Random:
    """Leaves the model as its class initialized it."""

    def initialize(self, backbone: Backbone, data: CellData, spec: Spec) -> None:
        """Change nothing."""
