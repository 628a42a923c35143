"""The metrics of the latest validation, so that the trained model need not be validated twice."""

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn


class LastValidation(pl.Callback):
    """Keeps what the latest validation within training found.

    Attributes:
        step: optimizer steps that the model had done; None before the first validation of this process.
        metrics: ``val/...``.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the metrics."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.step = trainer.global_step
            found = trainer.callback_metrics
            self.metrics = {name: float(value) for name, value in found.items() if name.startswith("val/")}
