"""Prototypes computed from all labeled cells at the start of every epoch."""

from typing import Any

import pytorch_lightning as pl
import torch


class Consolidate(pl.Callback):
    """Calls ``head.update(outputs, targets)`` on all training cells, for a head that implements it.

    Each rank predicts its share of the cells and the ranks exchange the predictions, so that means are over all cells.
    An epoch that is resumed in its middle keeps its prototypes.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Predict all training cells once, without training on them."""
        labeled: Any = module
        if "update" not in labeled.task.hooks or _is_mid_epoch(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        modes = {part: part.training for part in module.modules()}
        module.eval()
        with torch.inference_mode():
            batches = (batch.to(module.device) for batch in data.loader(data.split.train))
            parts = [labeled.predict_labeled(labeled.backbone, batch) for batch in batches]
        for part, training in modes.items():
            part.training = training
        labeled.task.update(*labeled.join_labeled(parts))


def _is_mid_epoch(trainer: pl.Trainer) -> bool:
    place = getattr(trainer.train_dataloader, "place", None)
    return place is not None and 0 < place.step < len(place.order)
