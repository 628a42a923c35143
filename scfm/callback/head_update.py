"""Prototypes computed from all labeled cells at the start of every epoch."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class Consolidate(pl.Callback):
    """Calls ``head.update(outputs, targets)`` on all training cells, for a head that implements it.

    Each rank predicts its share of the cells and the ranks exchange the predictions, so that means are over all cells.
    An epoch that is resumed in its middle keeps its prototypes.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Predict all training cells once, without training on them."""
        task: Any = module.task
        if "update" not in task.hooks or _is_mid_epoch(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        modes = {part: part.training for part in module.modules()}
        module.eval()
        parts = []
        with torch.inference_mode():
            for batch in data.loader(data.split.train):
                batch = batch.to(module.device)
                found = task.predict(module.backbone, batch) | {
                    f"/{name}": batch.obs[name] for name in data.plan.labels
                }
                parts.append({name: value.cpu().numpy() for name, value in found.items()})
        for part, training in modes.items():
            part.training = training
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if trainer.world_size > 1:
            whole = {name: module.gather(value) for name, value in whole.items()}  # type: ignore[operator]
        targets = {name[1:]: whole.pop(name) for name in list(whole) if name.startswith("/")}
        task.update(whole, targets)


def _is_mid_epoch(trainer: pl.Trainer) -> bool:
    place = getattr(trainer.train_dataloader, "place", None)
    return place is not None and 0 < place.step < len(place.order)
